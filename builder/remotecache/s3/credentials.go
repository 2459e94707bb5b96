package s3

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/builder/remotecache/rest"
)

// Where machines of AWS get their credentials.
const (
	instanceURL  = "http://169.254.169.254"
	containerURL = "http://169.254.170.2"
)

// renewBefore is how long before their end credentials are replaced.
const renewBefore = 5 * time.Minute

var errNone = errors.New("none there")

// Chain finds credentials where AWS's SDK does: in the environment, in the shared
// credentials file, by a web identity token, from a container's and from a virtual
// machine's metadata service. It keeps them until they expire.
type Chain struct {
	Region string
	// Getenv is os.Getenv if nil.
	Getenv func(string) string
	// Instance, Container and STS are the URLs of services; "" is AWS's.
	Instance, Container, STS string

	rest rest.Client

	mu   sync.Mutex // guards have; held during I/O, so that one asks for all
	have Credentials
}

// Credentials returns credentials that are valid now.
func (c *Chain) Credentials(ctx context.Context) (Credentials, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.have.AccessKeyID != "" && (c.have.Expires.IsZero() || time.Until(c.have.Expires) > renewBefore) {
		return c.have, nil
	}
	var tried []error
	for _, from := range []struct {
		name string
		get  func(context.Context) (Credentials, error)
	}{
		{"environment", c.environment}, {"web identity", c.webIdentity}, {"credentials file", c.file},
		{"container", c.container}, {"instance", c.instance},
	} {
		got, err := from.get(ctx)
		if err == nil {
			c.have = got
			return got, nil
		}
		tried = append(tried, fmt.Errorf("%s: %w", from.name, err))
	}
	return Credentials{}, fmt.Errorf("find credentials of AWS (set access_key_id and secret_access_key, or give them to the daemon): %w", errors.Join(tried...))
}

func (c *Chain) env(key string) string {
	if c.Getenv != nil {
		return c.Getenv(key)
	}
	return os.Getenv(key)
}

func (c *Chain) environment(context.Context) (Credentials, error) {
	out := Credentials{
		AccessKeyID: c.env("AWS_ACCESS_KEY_ID"), SecretAccessKey: c.env("AWS_SECRET_ACCESS_KEY"), SessionToken: c.env("AWS_SESSION_TOKEN"),
	}
	if out.AccessKeyID == "" || out.SecretAccessKey == "" {
		return out, errNone
	}
	return out, nil
}

func (c *Chain) file(context.Context) (Credentials, error) {
	path := c.env("AWS_SHARED_CREDENTIALS_FILE")
	if path == "" {
		path = filepath.Join(c.env("HOME"), ".aws/credentials")
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Credentials{}, errNone
	}
	if err != nil {
		return Credentials{}, err
	}
	values := section(data, cmp.Or(c.env("AWS_PROFILE"), "default"))
	out := Credentials{AccessKeyID: values["aws_access_key_id"], SecretAccessKey: values["aws_secret_access_key"], SessionToken: values["aws_session_token"]}
	if out.AccessKeyID == "" || out.SecretAccessKey == "" {
		return out, errNone
	}
	return out, nil
}

// section reads a section of an INI file.
func section(data []byte, name string) map[string]string {
	out := map[string]string{}
	in := false
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if strings.HasPrefix(line, "[") {
			in = strings.Trim(line, "[] ") == name
			continue
		}
		if k, v, ok := strings.Cut(line, "="); ok && in && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ";") {
			out[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	return out
}

const maxDocument = 64 << 10

// webIdentity exchanges the token of a Kubernetes service account.
func (c *Chain) webIdentity(ctx context.Context) (Credentials, error) {
	file, role := c.env("AWS_WEB_IDENTITY_TOKEN_FILE"), c.env("AWS_ROLE_ARN")
	if file == "" || role == "" {
		return Credentials{}, errNone
	}
	token, err := os.ReadFile(file)
	if err != nil {
		return Credentials{}, err
	}
	form := url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {role},
		"RoleSessionName":  {cmp.Or(c.env("AWS_ROLE_SESSION_NAME"), "buildd")},
		"WebIdentityToken": {strings.TrimSpace(string(token))},
	}
	endpoint := cmp.Or(c.STS, "https://sts."+c.Region+".amazonaws.com")
	data, _, err := c.rest.Read(ctx, maxDocument, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		return req, err
	})
	if err != nil {
		return Credentials{}, err
	}
	var answer struct {
		Credentials struct {
			AccessKeyId, SecretAccessKey, SessionToken string
			Expiration                                 time.Time
		} `xml:"AssumeRoleWithWebIdentityResult>Credentials"`
	}
	if err := xml.Unmarshal(data, &answer); err != nil {
		return Credentials{}, fmt.Errorf("read answer of %s: %w", endpoint, err)
	}
	got := answer.Credentials
	return Credentials{got.AccessKeyId, got.SecretAccessKey, got.SessionToken, got.Expiration}, nil
}

// document is what metadata services answer.
type document struct {
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	Token           string
	Expiration      time.Time
}

func (c *Chain) document(ctx context.Context, from string, header http.Header) (Credentials, error) {
	data, err := c.fetch(ctx, http.MethodGet, from, header)
	if err != nil {
		return Credentials{}, err
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return Credentials{}, fmt.Errorf("read credentials: %w", err)
	}
	if d.AccessKeyID == "" {
		return Credentials{}, errNone
	}
	return Credentials{d.AccessKeyID, d.SecretAccessKey, d.Token, d.Expiration}, nil
}

// fetch asks a service that is near, or not there at all.
func (c *Chain) fetch(ctx context.Context, method, from string, header http.Header) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	data, _, err := c.rest.Read(ctx, maxDocument, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, method, from, nil)
		if err == nil {
			req.Header = header.Clone()
		}
		return req, err
	})
	return data, err
}

// container asks the service of ECS, or of EKS' pod identities.
func (c *Chain) container(ctx context.Context) (Credentials, error) {
	from := c.env("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	if rel := c.env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); rel != "" {
		from = cmp.Or(c.Container, containerURL) + rel
	}
	if from == "" {
		return Credentials{}, errNone
	}
	token := c.env("AWS_CONTAINER_AUTHORIZATION_TOKEN")
	if file := c.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return Credentials{}, err
		}
		token = strings.TrimSpace(string(b))
	}
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", token)
	}
	return c.document(ctx, from, header)
}

// instance asks the metadata service of EC2, version 2.
func (c *Chain) instance(ctx context.Context) (Credentials, error) {
	if strings.EqualFold(c.env("AWS_EC2_METADATA_DISABLED"), "true") {
		return Credentials{}, errNone
	}
	base := cmp.Or(c.Instance, instanceURL)
	token, err := c.fetch(ctx, http.MethodPut, base+"/latest/api/token", http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"300"}})
	if err != nil {
		return Credentials{}, err
	}
	header := http.Header{"X-Aws-Ec2-Metadata-Token": {string(token)}}
	roles := base + "/latest/meta-data/iam/security-credentials/"
	role, err := c.fetch(ctx, http.MethodGet, roles, header)
	if err != nil {
		return Credentials{}, err
	}
	name, _, _ := strings.Cut(strings.TrimSpace(string(role)), "\n")
	return c.document(ctx, roles+name, header)
}
