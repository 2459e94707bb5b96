package export

import (
	"strings"
	"testing"

	"github.com/buildd/buildd/cache"
)

func TestPlatformWarnings(t *testing.T) {
	two := multi(t, nil, map[string]cache.Tree{"linux/amd64": "", "linux/arm64": ""})
	one := func(config string) Input { return input(t, "", map[string]string{"containerimage.config": config}) }
	for _, c := range []struct {
		in        Input
		requested string
		want      string
	}{
		{two, "linux/amd64,linux/arm64/v8", ""},
		{two, "linux/amd64,linux/arm", "Requested platforms linux/amd64,linux/arm/v7 do not match result platforms linux/amd64,linux/arm64"},
		{two, "linux/amd64", "do not match"},
		{two, "linux/amd64,linux/amd64", `Duplicate platform result requested "linux/amd64"`},
		{two, "linux/amd64,+", `Invalid platform result requested "+"`},
		{one(amd64), "linux/amd64", ""},
		{one(amd64), "linux/s390x", `Requested platform "linux/s390x" does not match result platform "linux/amd64"`},
		{one(amd64), "linux/amd64,linux/arm", "Multiple platforms requested but result is not multi-platform"},
		{one(`{"os":"windows","architecture":"amd64","os.version":"10.0.1"}`), "windows/amd64", ""},
	} {
		got := strings.Join(c.in.PlatformWarnings(strings.Split(c.requested, ",")), "; ")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.requested, got, c.want)
		}
	}
}
