package remotecache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/buildd/buildd/builder/remotecache/azblob"
)

func azblobStore(a attrs) (store, error)   { return newAzblob(a) }
func azblobSource(a attrs) (source, error) { return newAzblob(a) }

func newAzblob(a attrs) (*objects, error) {
	c := azblob.Config{
		Account:   a.text("account_url", os.Getenv("BUILDKIT_AZURE_STORAGE_ACCOUNT_URL")),
		Container: a.text("container", os.Getenv("BUILDKIT_AZURE_STORAGE_CONTAINER")),
	}
	if c.Container == "" {
		c.Container = "buildkit-cache"
	}
	if c.Account == "" {
		return nil, errors.New("attribute account_url is missing: want one such as https://ACCOUNT.blob.core.windows.net ($BUILDKIT_AZURE_STORAGE_ACCOUNT_URL of the daemon)")
	}
	u, err := url.Parse(c.Account)
	if err != nil {
		return nil, fmt.Errorf("attribute account_url: %q is no URL: want one such as https://ACCOUNT.blob.core.windows.net", c.Account)
	}
	account, _, _ := strings.Cut(u.Hostname(), ".")
	account = a.text("account_name", orEnv("BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME", account))
	secret, _ := a.take("secret_access_key")
	if secret == "" {
		c.Authorize = new(azblob.Identity).Authorize
	} else {
		key, err := azblob.NewKey(account, secret)
		if err != nil {
			return nil, fmt.Errorf("attribute secret_access_key: %w", err)
		}
		c.Authorize = func(_ context.Context, r *http.Request) error {
			key.Sign(r, time.Now())
			return nil
		}
	}
	prefix := a.text("prefix", os.Getenv("BUILDKIT_AZURE_STORAGE_PREFIX"))
	o := &objects{
		title: "exporting cache to Azure Blob Storage", place: "azblob://" + u.Host + "/" + path.Join(c.Container, prefix),
		blobPrefix: path.Join(prefix, a.text("blobs_prefix", "blobs")) + "/", manifest: path.Join(prefix, a.text("manifests_prefix", "manifests")) + "/",
		names: takeNames(a), parallel: 4,
	}
	o.bucket, err = azblob.New(c)
	return o, err
}

func orEnv(key, otherwise string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return otherwise
}
