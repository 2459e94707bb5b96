package gha

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Scope is a branch whose caches a job may use.
type Scope struct {
	Scope      string
	Permission int // 1: read, 2: write
}

// scopes reads what the token of a job says that it may do. The token's signature
// is for the service to check.
func scopes(token string, now time.Time) ([]Scope, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("attribute token: it is no JSON web token: want the value of $ACTIONS_RUNTIME_TOKEN")
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return nil, errors.New("attribute token: it is no JSON web token: want the value of $ACTIONS_RUNTIME_TOKEN")
	}
	var claims struct {
		AC  string  `json:"ac"`
		Exp float64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.AC == "" {
		return nil, errors.New("attribute token: it has no access controls: want the value of $ACTIONS_RUNTIME_TOKEN")
	}
	if end := time.Unix(int64(claims.Exp), 0); claims.Exp > 0 && now.After(end) {
		return nil, fmt.Errorf("attribute token: it expired at %s", end.UTC().Format(time.RFC3339))
	}
	var out []Scope
	if err := json.Unmarshal([]byte(claims.AC), &out); err != nil {
		return nil, errors.New("attribute token: its access controls cannot be read")
	}
	return out, nil
}
