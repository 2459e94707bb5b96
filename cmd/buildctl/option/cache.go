package option

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/moby/buildkit/client"
)

const typeRegistry = "registry"

// caches are the types of caches, as an error lists them.
const caches = "registry, inline, local, gha, s3 or azblob"

// CacheExports reads the values of --cache-to and --export-cache.
func CacheExports(values []string) ([]client.CacheOptionsEntry, error) {
	return cacheEntries(values, func(e client.CacheOptionsEntry) error {
		if e.Type == "local" && e.Attrs["dest"] == "" {
			return errors.New("want dest=DIR")
		}
		if _, ok := e.Attrs["mode"]; !ok && e.Type != "inline" {
			e.Attrs["mode"] = "min"
		}
		if m, ok := e.Attrs["mode"]; ok && m != "min" && m != "max" {
			return fmt.Errorf("mode %q: want min or max", m)
		}
		return nil
	})
}

// CacheImports reads the values of --cache-from and --import-cache.
func CacheImports(values []string) ([]client.CacheOptionsEntry, error) {
	return cacheEntries(values, func(e client.CacheOptionsEntry) error {
		if e.Type == "local" && e.Attrs["src"] == "" {
			return errors.New("want src=DIR")
		}
		return nil
	})
}

func cacheEntries(values []string, check func(client.CacheOptionsEntry) error) ([]client.CacheOptionsEntry, error) {
	var out []client.CacheOptionsEntry
	for _, s := range values {
		e, err := cacheEntry(s)
		if err == nil {
			err = check(e)
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		out = append(out, e)
	}
	return out, nil
}

func cacheEntry(s string) (client.CacheOptionsEntry, error) {
	e := client.CacheOptionsEntry{Attrs: map[string]string{}}
	fs, err := fields(s)
	if err != nil {
		return e, err
	}
	if len(fs) == 1 && !fs[0].set { // an image's name
		e.Type, e.Attrs["ref"] = typeRegistry, s
		return e, nil
	}
	if e.Type, e.Attrs, err = typed(s); err != nil {
		return e, err
	}
	switch e.Type {
	case "":
		return e, fmt.Errorf("want type=TYPE,..., the type being %s", caches)
	case typeRegistry:
		if e.Attrs["ref"] == "" {
			return e, errors.New("want ref=NAME:TAG")
		}
	case "gha":
		return e, githubCache(e.Attrs)
	case "s3":
		awsCredentials(e.Attrs)
	}
	return e, nil
}

// githubCache fills in what the runner of a GitHub workflow has in its
// environment.
func githubCache(attrs map[string]string) error {
	_, v2 := attrs["url_v2"]
	if version, ok := attrs["version"]; ok {
		v2 = version == "2"
	} else if on, err := strconv.ParseBool(os.Getenv("ACTIONS_CACHE_SERVICE_V2")); err == nil && on {
		v2 = true
	}
	if v2 {
		fromEnv(attrs, "url_v2", "ACTIONS_RESULTS_URL")
	}
	fromEnv(attrs, "url", "ACTIONS_CACHE_URL", "ACTIONS_RESULTS_URL")
	fromEnv(attrs, "token", "ACTIONS_RUNTIME_TOKEN")
	if attrs["url"] == "" && attrs["url_v2"] == "" {
		return errors.New("want url=URL, or $ACTIONS_CACHE_URL or $ACTIONS_RESULTS_URL as in a GitHub workflow")
	}
	if attrs["token"] == "" {
		return errors.New("want token=TOKEN, or $ACTIONS_RUNTIME_TOKEN as in a GitHub workflow")
	}
	return nil
}

// awsCredentials takes keys of the environment along, as buildx does; those of a
// profile are the daemon's to find.
func awsCredentials(attrs map[string]string) {
	if attrs["access_key_id"] != "" || attrs["secret_access_key"] != "" {
		return
	}
	fromEnv(attrs, "access_key_id", "AWS_ACCESS_KEY_ID")
	fromEnv(attrs, "secret_access_key", "AWS_SECRET_ACCESS_KEY")
	fromEnv(attrs, "session_token", "AWS_SESSION_TOKEN")
}

// fromEnv sets an attribute that is not there to the first variable that is.
func fromEnv(attrs map[string]string, key string, names ...string) {
	if _, ok := attrs[key]; ok {
		return
	}
	for _, n := range names {
		if v := os.Getenv(n); v != "" {
			attrs[key] = v
			return
		}
	}
}
