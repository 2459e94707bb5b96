package azblob

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/builder/remotecache/rest"
)

const (
	storageScope = "https://storage.azure.com/"
	loginURL     = "https://login.microsoftonline.com/"
	instanceURL  = "http://169.254.169.254"
	renewBefore  = 5 * time.Minute
	maxAnswer    = 64 << 10
)

var errNone = errors.New("none there")

// Identity gets access tokens where Azure's SDK does: by a client's secret or a
// federated token that the environment names, and from a virtual machine's
// metadata service. It keeps them until they expire.
type Identity struct {
	// Getenv is os.Getenv if nil.
	Getenv func(string) string
	// Instance is the URL of the metadata service; "" is Azure's.
	Instance string

	rest rest.Client

	mu      sync.Mutex // guards what follows; held during I/O, so that one asks for all
	token   string
	expires time.Time
}

// Authorize adds a token to a request.
func (i *Identity) Authorize(ctx context.Context, r *http.Request) error {
	t, err := i.Token(ctx)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+t)
	return nil
}

// Token returns a token that is valid now.
func (i *Identity) Token(ctx context.Context) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.token != "" && time.Until(i.expires) > renewBefore {
		return i.token, nil
	}
	var tried []error
	for _, from := range []struct {
		name string
		get  func(context.Context) (answer, error)
	}{{"environment", i.environment}, {"workload identity", i.workload}, {"instance", i.instance}} {
		a, err := from.get(ctx)
		if err == nil && a.AccessToken != "" {
			i.token, i.expires = a.AccessToken, time.Now().Add(a.lifetime())
			return i.token, nil
		}
		if err == nil {
			err = errNone
		}
		tried = append(tried, fmt.Errorf("%s: %w", from.name, err))
	}
	return "", fmt.Errorf("find credentials of Azure (set secret_access_key, or give them to the daemon): %w", errors.Join(tried...))
}

func (i *Identity) env(key string) string {
	if i.Getenv != nil {
		return i.Getenv(key)
	}
	return os.Getenv(key)
}

// answer is what token services answer; the metadata service has numbers as text.
type answer struct {
	AccessToken string          `json:"access_token"`
	ExpiresIn   json.RawMessage `json:"expires_in"`
}

func (a answer) lifetime() time.Duration {
	d, err := time.ParseDuration(strings.Trim(string(a.ExpiresIn), `"`) + "s")
	if err != nil {
		return renewBefore // good for this time
	}
	return d
}

// environment is a client with a secret.
func (i *Identity) environment(ctx context.Context) (answer, error) {
	secret := i.env("AZURE_CLIENT_SECRET")
	if secret == "" {
		return answer{}, errNone
	}
	return i.login(ctx, url.Values{"client_secret": {secret}})
}

// workload is a client with a token of another identity provider, such as a
// Kubernetes service account's.
func (i *Identity) workload(ctx context.Context) (answer, error) {
	file := i.env("AZURE_FEDERATED_TOKEN_FILE")
	if file == "" {
		return answer{}, errNone
	}
	token, err := os.ReadFile(file)
	if err != nil {
		return answer{}, err
	}
	return i.login(ctx, url.Values{
		"client_assertion":      {strings.TrimSpace(string(token))},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
	})
}

func (i *Identity) login(ctx context.Context, form url.Values) (answer, error) {
	tenant, client := i.env("AZURE_TENANT_ID"), i.env("AZURE_CLIENT_ID")
	if tenant == "" || client == "" {
		return answer{}, errors.New("AZURE_TENANT_ID and AZURE_CLIENT_ID must be set, too")
	}
	form.Set("grant_type", "client_credentials")
	form.Set("client_id", client)
	form.Set("scope", storageScope+".default")
	to := strings.TrimSuffix(cmp.Or(i.env("AZURE_AUTHORITY_HOST"), loginURL), "/") + "/" + url.PathEscape(tenant) + "/oauth2/v2.0/token"
	return i.ask(ctx, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		return req, err
	})
}

// instance asks the metadata service of a virtual machine for its managed
// identity.
func (i *Identity) instance(ctx context.Context) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	q := url.Values{"api-version": {"2018-02-01"}, "resource": {storageScope}}
	if id := i.env("AZURE_CLIENT_ID"); id != "" {
		q.Set("client_id", id)
	}
	return i.ask(ctx, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, cmp.Or(i.Instance, instanceURL)+"/metadata/identity/oauth2/token?"+q.Encode(), nil)
		if err == nil {
			req.Header.Set("Metadata", "true")
		}
		return req, err
	})
}

func (i *Identity) ask(ctx context.Context, make func(context.Context) (*http.Request, error)) (a answer, err error) {
	data, _, err := i.rest.Read(ctx, maxAnswer, make)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("read token: %w", err)
	}
	return a, nil
}
