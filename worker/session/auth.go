package session

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"

	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/crypto/nacl/sign"
	"google.golang.org/grpc/codes"
)

// errPass makes Any go on with the next session.
var errPass = errors.New("session has no registry credentials")

// Login is what a client uses at a registry; the zero Login is anonymous. A
// Login without Username has an identity token as Secret.
type Login struct {
	Username, Secret string
}

// Credentials asks the clients for the login at a registry's host. Clients that
// have none are anonymous.
func Credentials(ctx context.Context, c Client, host string) (Login, error) {
	var out Login
	err := ask(ctx, c, func(ctx context.Context, a auth.AuthClient) error {
		r, err := a.Credentials(ctx, &auth.CredentialsRequest{Host: host})
		if err != nil {
			return err
		}
		out = Login{Username: r.Username, Secret: r.Secret}
		return nil
	})
	if err != nil {
		return Login{}, fmt.Errorf("ask client for credentials of %s: %w", host, err)
	}
	return out, nil
}

// TokenAuthority asks for the public key of a client that fetches a host's
// tokens itself, so that its credentials never leave it. nil: no client does.
func TokenAuthority(ctx context.Context, c Client, host string) (*[32]byte, error) {
	var key *[32]byte
	err := ask(ctx, c, func(ctx context.Context, a auth.AuthClient) error {
		r, err := a.GetTokenAuthority(ctx, &auth.GetTokenAuthorityRequest{Host: host, Salt: salt()})
		if err != nil {
			if grpcerrors.Code(err) == codes.Unavailable { // what clients answer that have no place for a key
				return errPass
			}
			return err
		}
		if len(r.PublicKey) != 32 {
			return fmt.Errorf("client sent a key of %d bytes, want 32", len(r.PublicKey))
		}
		key = (*[32]byte)(r.PublicKey)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask client for its token authority of %s: %w", host, err)
	}
	return key, nil
}

// HoldsAuthority tells whether a client can prove that it has the private half
// of key, so that tokens fetched under that key may be used for it.
func HoldsAuthority(ctx context.Context, c Client, host string, key *[32]byte) (bool, error) {
	payload := make([]byte, 32)
	rand.Read(payload)
	ok := false
	err := ask(ctx, c, func(ctx context.Context, a auth.AuthClient) error {
		r, err := a.VerifyTokenAuthority(ctx, &auth.VerifyTokenAuthorityRequest{Host: host, Salt: salt(), Payload: payload})
		if err != nil {
			return err
		}
		got, valid := sign.Open(nil, r.Signed, key)
		if !valid || subtle.ConstantTimeCompare(got, payload) != 1 {
			return errPass
		}
		ok = true
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("verify token authority of %s: %w", host, err)
	}
	return ok, nil
}

// FetchToken lets a client fetch a token.
func FetchToken(ctx context.Context, c Client, r *auth.FetchTokenRequest) (*auth.FetchTokenResponse, error) {
	var out *auth.FetchTokenResponse
	err := ask(ctx, c, func(ctx context.Context, a auth.AuthClient) error {
		var err error
		out, err = a.FetchToken(ctx, r)
		return err
	})
	if err == nil && out == nil {
		err = errPass
	}
	if err != nil {
		return nil, fmt.Errorf("fetch token for %s through client: %w", r.Host, err)
	}
	return out, nil
}

// ask tries sessions until one answers. That none has the service, or that
// there is no session, is no error: f was not successful then.
func ask(ctx context.Context, c Client, f func(context.Context, auth.AuthClient) error) error {
	if c == nil {
		return nil
	}
	if auth.SessionAuthTimeout > 0 { // set from buildkitd.toml's sessionAuthTimeout
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, auth.SessionAuthTimeout)
		defer cancel()
	}
	err := c.Any(ctx, func(ctx context.Context, _ string, caller bksession.Caller) error {
		err := f(ctx, auth.NewAuthClient(caller.Conn()))
		if err != nil && grpcerrors.Code(err) == codes.Unimplemented {
			return errPass
		}
		return err
	})
	if errors.Is(err, errPass) || errors.Is(err, ErrNoSession) {
		return nil
	}
	return err
}

// salt keeps the keys of clients from outliving this process.
var salt = sync.OnceValue(func() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
})
