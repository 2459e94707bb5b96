package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// What went wrong with a registry, as far as callers go different ways.
var (
	ErrUnreachable = errors.New("registry cannot be reached")
	ErrDenied      = errors.New("access denied")
	ErrNotFound    = errors.New("not found in the registry")
)

// explain says what err means for ref and what would help. The result wraps err
// and one of the sentinels if it is one of theirs.
func explain(ctx context.Context, verb, ref string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", verb, ref, context.Cause(ctx))
	}
	host := hostOf(ref)
	kind, advice := classify(err, host)
	if kind == nil {
		return fmt.Errorf("%s %s: %w", verb, ref, err)
	}
	return fmt.Errorf("%s %s: %w: %s (%w)", verb, ref, kind, advice, err)
}

//lint:ignore ST1008 the error returned is a class, not a failure
func classify(err error, host string) (kind error, advice string) {
	var status remoteserrors.ErrUnexpectedStatus
	hasStatus := errors.As(err, &status)
	text := err.Error()
	switch {
	case hasStatus && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden),
		strings.Contains(text, ": 401 "), // of a token that a client could not get; its error is text only
		errors.Is(err, docker.ErrInvalidAuthorization), errors.Is(err, errNoLogin):
		return ErrDenied, fmt.Sprintf(`the image may not exist, or needs "docker login %s"`, host)
	case errdefs.IsNotFound(err), hasStatus && status.StatusCode == http.StatusNotFound, strings.Contains(text, ": 404 "):
		return ErrNotFound, "check the name and the tag"
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return ErrUnreachable, fmt.Sprintf(`it speaks plain HTTP, say http = true below [registry."%s"] in the configuration`, host)
	case strings.Contains(text, "x509:"), strings.Contains(text, "tls: failed to verify"):
		return ErrUnreachable, fmt.Sprintf(`its certificate is not trusted, name its CA with ca = ["FILE"] below [registry."%s"] in the configuration`, host)
	case hasStatus && isBusy(status.StatusCode), isNetwork(err):
		return ErrUnreachable, fmt.Sprintf("check the network and %s, or import the image", host)
	default:
		return nil, ""
	}
}

func isNetwork(err error) bool {
	var (
		op  *net.OpError
		dns *net.DNSError
		ue  *url.Error
		ne  net.Error
	)
	return errors.As(err, &op) || errors.As(err, &dns) || isTransient(err) ||
		errors.As(err, &ne) && ne.Timeout() || errors.As(err, &ue) && strings.Contains(err.Error(), "proxyconnect")
}

func hostOf(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.Domain(named)
}
