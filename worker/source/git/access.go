package git

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/buildd/buildd/worker/session"
)

// work calls f with a git program that has the client's secrets, keys and known
// hosts for the request's remote. They are gone when f returns.
func (s *Source) work(ctx context.Context, c session.Client, req request, f func(g program) error) error {
	g := program{bin: s.c.Binary, advice: req.advice, log: req.log}
	header, err := authorization(ctx, c, req)
	if err != nil {
		return err
	}
	if header != "" {
		g = g.with("http."+authScope(req.remote.url)+".extraHeader", "Authorization: "+header)
	}
	dir, err := os.MkdirTemp(s.tmp(), "access-")
	if err != nil {
		return fmt.Errorf("git source %s: %w", req.remote.url, err)
	}
	defer os.RemoveAll(dir)
	ssh := []string{"ssh", "-F", os.DevNull, "-o", "BatchMode=yes", "-o", "IdentityFile=none"}
	if req.ssh != "" {
		agent, err := session.MountSSH(ctx, c, session.SSH{ID: req.ssh, Dir: dir, UID: os.Getuid(), GID: os.Getgid(), Mode: 0o600})
		if err != nil {
			return fmt.Errorf("git source %s: %w", req.remote.url, err)
		}
		defer agent.Close()
		g.authSSH = agent.Path
	} else {
		ssh = append(ssh, "-o", "IdentityAgent=none")
	}
	if req.knownHosts != "" {
		path := filepath.Join(dir, "known_hosts")
		if err := os.WriteFile(path, []byte(req.knownHosts), 0o600); err != nil {
			return fmt.Errorf("git source %s: %w", req.remote.url, err)
		}
		ssh = append(ssh, "-o", "UserKnownHostsFile="+path)
	} else {
		// Nobody said whom to expect, and the client could not ask either.
		ssh = append(ssh, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile="+os.DevNull)
	}
	g.ssh = strings.Join(ssh, " ")
	return f(g)
}

// authorization returns the value of the Authorization header: a secret of the
// client, for this host before any, or what the URL has.
func authorization(ctx context.Context, c session.Client, req request) (string, error) {
	if req.remote.scheme != "http" && req.remote.scheme != "https" {
		return "", nil
	}
	var names []string
	isToken := map[string]bool{}
	for _, suffix := range []string{"." + req.remote.host, ""} {
		for _, n := range []string{req.headerSecret, req.tokenSecret} {
			if n != "" {
				names = append(names, n+suffix)
				isToken[n+suffix] = n == req.tokenSecret && n != req.headerSecret
			}
		}
	}
	if c != nil {
		name, value, err := session.FirstSecret(ctx, c, names...)
		if err != nil {
			return "", fmt.Errorf("git source %s: %w", req.remote.url, err)
		}
		v := strings.TrimSpace(string(value))
		if strings.ContainsAny(v, "\n\r") {
			return "", fmt.Errorf("git source %s: secret %q has several lines", req.remote.url, name)
		}
		if v != "" && isToken[name] {
			return basic("x-access-token", v), nil
		}
		if v != "" {
			return v, nil
		}
	}
	if req.remote.user != "" {
		return basic(req.remote.user, req.remote.password), nil
	}
	return "", nil
}

func basic(user, password string) string {
	return "basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// authScope is the URL prefix that gets the header: the repository, but all of
// GitHub, whose tokens are for many repositories and so for submodules.
func authScope(url string) string {
	for _, p := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(url, p) {
			return p
		}
	}
	return url
}
