package lower

import (
	"fmt"
	"os"
	"regexp"
	"strconv"

	"github.com/moby/buildkit/client/llb"
)

// symbolicMode is what chmod(1) understands beside numbers: "u=rwX,go-w".
var symbolicMode = regexp.MustCompile(`^[ugoa]*([-+=][rwxXstugo]*)+(,[ugoa]*([-+=][rwxXstugo]*)+)*$`)

// parseMode reads the flag --chmod, nil if it is not given.
func parseMode(s string) (*llb.ChmodOpt, error) {
	if s == "" {
		return nil, nil
	}
	if n, err := strconv.ParseUint(s, 8, 32); err == nil && n <= 0o7777 {
		return &llb.ChmodOpt{Mode: os.FileMode(n)}, nil
	}
	if s[0] >= '0' && s[0] <= '9' {
		return nil, fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
	}
	if !symbolicMode.MatchString(s) {
		return nil, fmt.Errorf("invalid chmod parameter: '%s'. it should be octal (0755) or symbolic (u=rwX,go-w)", s)
	}
	return &llb.ChmodOpt{ModeStr: s}, nil
}
