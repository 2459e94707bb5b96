package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Config is one [registry."HOST"] section of buildkitd.toml.
type Config struct {
	// Mirrors are tried before HOST itself, in this order. Each is HOST[:PORT],
	// optionally with a path below which the mirror keeps its repositories.
	Mirrors []string `toml:"mirrors"`
	// PlainHTTP speaks HTTP; nil does so for the local host only. Together with
	// Insecure it is tried after HTTPS.
	PlainHTTP *bool `toml:"http"`
	// Insecure accepts any certificate.
	Insecure *bool `toml:"insecure"`
	// RootCAs are PEM files, trusted in addition to the system's.
	RootCAs []string `toml:"ca"`
	// KeyPairs are client certificates.
	KeyPairs []KeyPair `toml:"keypair"`
	// TLSConfigDir lists directories with *.crt (CAs), *.cert and *.key files, as
	// /etc/docker/certs.d/HOST has them.
	TLSConfigDir []string `toml:"tlsconfigdir"`
}

// KeyPair is a client certificate and its key, both PEM files.
type KeyPair struct {
	Key         string `toml:"key"`
	Certificate string `toml:"cert"`
}

func (c Config) insecure() bool { return c.Insecure != nil && *c.Insecure }

// withCertDirs adds what the directories of TLSConfigDir hold. A directory that
// does not exist is empty.
func (c Config) withCertDirs() (Config, error) {
	for _, dir := range c.TLSConfigDir {
		files, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return c, fmt.Errorf("read tlsconfigdir: %w", err)
		}
		for _, f := range files {
			path := filepath.Join(dir, f.Name())
			switch filepath.Ext(path) {
			case ".crt":
				c.RootCAs = append(c.RootCAs, path)
			case ".cert":
				c.KeyPairs = append(c.KeyPairs, KeyPair{Certificate: path, Key: strings.TrimSuffix(path, ".cert") + ".key"})
			}
		}
	}
	return c, nil
}

// tls reads the certificates of c.
func (c Config) tls() (*tls.Config, error) {
	c, err := c.withCertDirs()
	if err != nil {
		return nil, err
	}
	t := &tls.Config{InsecureSkipVerify: c.insecure()}
	if len(c.RootCAs) > 0 {
		if t.RootCAs, err = x509.SystemCertPool(); err != nil {
			t.RootCAs = x509.NewCertPool() // a minimal system has no bundle
		}
	}
	for _, path := range c.RootCAs {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read ca: %w", err)
		}
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read ca %s: no PEM certificate in it", path)
		}
	}
	for _, kp := range c.KeyPairs {
		cert, err := tls.LoadX509KeyPair(kp.Certificate, kp.Key)
		if err != nil {
			return nil, fmt.Errorf("read keypair %s: %w", kp.Certificate, err)
		}
		t.Certificates = append(t.Certificates, cert)
	}
	return t, nil
}
