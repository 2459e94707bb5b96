package op

import (
	"fmt"
	"net"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// defaultHostname is BuildKit's, which images may have come to expect.
const defaultHostname = "buildkitsandbox"

// hostsFile is the /etc/hosts of a step.
func hostsFile(hostname string, extra []*pb.HostIP) []byte {
	if hostname == "" {
		hostname = defaultHostname
	}
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname)
	for _, h := range extra {
		fmt.Fprintf(&b, "%s\t%s\n", net.ParseIP(h.IP), h.Host)
	}
	return []byte(b.String())
}
