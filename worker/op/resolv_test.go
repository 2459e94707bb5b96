package op

import (
	"io/fs"
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

func TestResolvConf(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		dns   DNS
		mode  pb.NetMode
		want  string
	}{
		{name: "as on the host", files: map[string]string{hostResolvConf: "# x\nsearch a b\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\noptions ndots:2\n"},
			want: "nameserver 10.0.0.1\nsearch a b\noptions ndots:2\n"},
		{name: "loopback is left out", files: map[string]string{hostResolvConf: "nameserver 127.0.0.1\nnameserver ::1\nnameserver 9.9.9.9"}, want: "nameserver 9.9.9.9\n"},
		{name: "loopback of the host's network", files: map[string]string{hostResolvConf: "nameserver 127.0.0.1\n"}, mode: pb.NetMode_HOST, want: "nameserver 127.0.0.1\n"},
		{name: "systemd", files: map[string]string{hostResolvConf: "nameserver 127.0.0.53\n", resolvedConf: "nameserver 10.0.0.2\n"}, want: "nameserver 10.0.0.2\n"},
		{name: "nothing", want: "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"},
		{name: "configured", files: map[string]string{hostResolvConf: "nameserver 10.0.0.1\nsearch a\n"}, dns: DNS{Nameservers: []string{"1.1.1.1"}, Options: []string{"edns0"}},
			want: "nameserver 1.1.1.1\nsearch a\noptions edns0\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.dns.resolvConf(c.mode, func(p string) ([]byte, error) {
				if s, ok := c.files[p]; ok {
					return []byte(s), nil
				}
				return nil, fs.ErrNotExist
			})
			if err != nil || string(got) != c.want {
				t.Errorf("%q %v, want %q", got, err, c.want)
			}
		})
	}
	for _, d := range []DNS{{Nameservers: []string{"x"}}, {SearchDomains: []string{"a\nnameserver 6.6.6.6"}}} {
		if d.check() == nil {
			t.Errorf("%+v was accepted", d)
		}
	}
}
