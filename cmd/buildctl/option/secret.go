package option

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
)

// Secrets reads the values of --secret and returns what hands them out.
func Secrets(values []string) (session.Attachable, error) {
	sources := make([]secretsprovider.Source, 0, len(values))
	for _, s := range values {
		src, err := secret(s)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		sources = append(sources, src)
	}
	store, err := secretsprovider.NewStore(sources)
	if err != nil {
		return nil, err
	}
	return secretsprovider.NewSecretProvider(store), nil
}

func secret(s string) (secretsprovider.Source, error) {
	const form = "want id=NAME,src=FILE or id=NAME,env=VARIABLE"
	var src secretsprovider.Source
	fs, err := fields(s)
	if err != nil {
		return src, err
	}
	kind := ""
	for _, f := range fs {
		if !f.set {
			return src, fmt.Errorf("field %q has no value: %s", f.key, form)
		}
		switch f.key {
		case "type":
			if f.value != "file" && f.value != "env" {
				return src, fmt.Errorf("type %q is not known: want file or env", f.value)
			}
			kind = f.value
		case "id":
			src.ID = f.value
		case "src", "source":
			src.FilePath = f.value
		case "env":
			src.Env = f.value
		default:
			return src, fmt.Errorf("field %q is not known: %s", f.key, form)
		}
	}
	if kind == "env" && src.Env == "" {
		src.Env, src.FilePath = src.FilePath, ""
	}
	if src.Env == "" && src.FilePath == "" { // docker's short form
		if _, ok := os.LookupEnv(src.ID); ok {
			src.Env = src.ID
		} else {
			src.FilePath = src.ID
		}
	}
	return src, checkSecret(src, form)
}

func checkSecret(src secretsprovider.Source, form string) error {
	switch {
	case src.ID == "":
		return errors.New("has no id: " + form)
	case src.FilePath != "" && src.Env != "":
		return errors.New("names both a file and a variable: " + form)
	case src.FilePath != "":
		fi, err := os.Stat(src.FilePath)
		if err != nil {
			return err
		}
		if fi.IsDir() {
			return fmt.Errorf("%s is a directory: want a file", src.FilePath)
		}
		if fi.Size() > secretsprovider.MaxSecretSize {
			return fmt.Errorf("%s has %d bytes: a secret may have %d", src.FilePath, fi.Size(), secretsprovider.MaxSecretSize)
		}
	case src.Env != "":
		if _, ok := os.LookupEnv(src.Env); !ok {
			return fmt.Errorf("the variable %s is not set", src.Env)
		}
	}
	return nil
}
