package option

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
)

// SSH reads the values of --ssh and returns what forwards the agents.
func SSH(values []string) (session.Attachable, error) {
	var agents []sshprovider.AgentConfig
	for _, s := range values {
		a, err := agent(s)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s, err)
		}
		agents = append(agents, a)
	}
	p, err := sshprovider.NewSSHAgentProvider(agents)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: want default with $SSH_AUTH_SOCK set, or ID=SOCKET, or ID=KEY[,KEY]", strings.Join(values, " "), err)
	}
	return p, nil
}

func agent(s string) (sshprovider.AgentConfig, error) {
	id, rest, ok := strings.Cut(s, "=")
	a := sshprovider.AgentConfig{ID: id}
	if !ok {
		return a, nil
	}
	for p := range strings.SplitSeq(rest, ",") {
		if v, ok := strings.CutPrefix(p, "raw="); ok {
			raw, err := strconv.ParseBool(v)
			if err != nil {
				return a, fmt.Errorf("raw=%s: want true or false", v)
			}
			a.Raw = raw
			continue
		}
		a.Paths = append(a.Paths, p)
	}
	if a.Raw && len(a.Paths) != 1 {
		return a, fmt.Errorf("raw with %d paths: want the one of a socket", len(a.Paths))
	}
	return a, nil
}
