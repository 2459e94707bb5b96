package option

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/moby/buildkit/session/auth/authprovider"
)

// RegistryTLS reads the values of --registry-auth-tlscontext, by host.
func RegistryTLS(values []string) (map[string]*authprovider.AuthTLSConfig, error) {
	out := map[string]*authprovider.AuthTLSConfig{}
	for _, s := range values {
		if err := registryTLS(out, s); err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
	}
	return out, nil
}

func registryTLS(out map[string]*authprovider.AuthTLSConfig, s string) error {
	fs, err := fields(s)
	if err != nil {
		return err
	}
	m := map[string]string{}
	for _, f := range fs {
		switch f.key {
		case "host", "ca", "cert", "key", "insecure":
			m[f.key] = f.value
		default:
			return fmt.Errorf("field %q is not known: want host, ca, cert, key or insecure", f.key)
		}
	}
	insecure := false
	if v, ok := m["insecure"]; ok {
		if insecure, err = strconv.ParseBool(v); err != nil {
			return fmt.Errorf("insecure=%s: want true or false", v)
		}
	}
	switch {
	case m["host"] == "":
		return errors.New("has no host: want host=URL,...")
	case (m["cert"] == "") != (m["key"] == ""):
		return errors.New("want both cert=FILE and key=FILE, or neither")
	case m["ca"] == "" && m["cert"] == "" && !insecure:
		return errors.New("want ca=FILE, cert=FILE,key=FILE or insecure=true")
	}
	c := out[m["host"]]
	if c == nil {
		c = &authprovider.AuthTLSConfig{}
		out[m["host"]] = c
	}
	c.Insecure = c.Insecure || insecure
	if m["ca"] != "" {
		c.RootCAs = append(c.RootCAs, m["ca"])
	}
	if m["cert"] != "" {
		c.KeyPairs = append(c.KeyPairs, authprovider.TLSKeyPair{Certificate: m["cert"], Key: m["key"]})
	}
	return nil
}
