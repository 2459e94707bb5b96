package dockerfile

import (
	"context"
	"testing"
)

// FuzzBuild: whatever a client sends is built or refused; nothing panics or goes on for ever.
func FuzzBuild(f *testing.F) {
	f.Add("FROM scratch\nCOPY a /\n", "*.o\n", "no-cache", "a")
	f.Add("# syntax=x\nARG A\nFROM $A\nRUN --mount=type=cache,target=/x ls", "!x", "build-arg:A", "busybox")
	f.Add("FROM a AS b\nFROM b\nCOPY --from=c x y\nADD https://h/r.git /", "**", "context:c", "local:x")
	f.Add("FROM scratch\nADD x y\n", "[", "platform", "linux/amd64,windows")
	f.Add("# check=error=true\nfrom scratch", "", "requestid", "frontend.lint")
	f.Fuzz(func(t *testing.T, dockerfile, ignore, key, value string) {
		client := &fakeClient{
			opts:  map[string]string{key: value},
			files: local(map[string]string{"Dockerfile": dockerfile, ".dockerignore": ignore}),
			images: map[string]string{
				"docker-image://docker.io/library/busybox:latest": `{"config":{"Env":["A=b"],"OnBuild":["COPY . /"]},"rootfs":{"diff_ids":["sha256:x"]}}`,
			},
		}
		res, err := Frontend{}.Build(context.Background(), client)
		if (res == nil) == (err == nil) {
			t.Fatalf("result %v, error %v", res, err)
		}
	})
}
