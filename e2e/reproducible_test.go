package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// everyKind uses every way of making files there is.
const everyKind = `FROM busybox:latest AS tool
WORKDIR /made/by/workdir
RUN for i in 9 3 7 1; do echo $i > $i; ln $i hard$i; ln -s $i soft$i; done; mkfifo pipe; chmod 4711 3; chown 5:6 7

FROM busybox:latest
ARG SOURCE_DATE_EPOCH
ENV SEEN=$SOURCE_DATE_EPOCH
WORKDIR /deep/er/still
RUN --mount=type=cache,target=/var/some/cache --mount=type=tmpfs,target=/scratch/pad --mount=type=secret,id=none \
    echo text > file && touch -d @12 old && rm /etc/group && rm -r /root && mkdir /root && date > /var/some/cache/now
RUN ["/bin/sh", "-c", "true"]
COPY sub /sub/
COPY --chmod=640 --chown=1:2 sub/a /new/parent/
COPY --link sub/b /linked/b
COPY --from=tool /made /made
COPY <<one <<two /here/
1
one
2
two
ADD files.tar /unpacked/
ADD --unpack=false files.tar /as/is/
USER daemon
LABEL k=v
VOLUME /sub
`

// TestReproducible builds the same on two daemons that share nothing, neither
// the time nor the runtime, and gets the same image bit for bit.
func TestReproducible(t *testing.T) {
	const epoch = 1700000000
	files := string(hostileTar(t,
		entry{tar.Header{Name: "t/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(5, 0)}, ""},
		entry{tar.Header{Name: "t/old", Typeflag: tar.TypeReg, Mode: 0o604, Size: 3, ModTime: time.Unix(7, 0), Uid: 3, Gid: 4}, "old"},
		entry{tar.Header{Name: "t/new", Typeflag: tar.TypeReg, Mode: 0o600, Size: 3, ModTime: time.Unix(1900000000, 0)}, "new"},
		link(tar.TypeLink, "t/hard", "t/new"), link(tar.TypeSymlink, "t/soft", "new")))
	long := filepath.Join(t.TempDir(), strings.Repeat("some/where/", 12))
	var archives [][]string
	for i, root := range []string{filepath.Join(t.TempDir(), "s"), long} {
		var args []string
		if i > 0 {
			args = []string{"--oci-worker-binary=runc"}
			t.Setenv("GOMAXPROCS", "7") // for compression in parallel
			t.Setenv("TZ", "Pacific/Auckland")
			time.Sleep(time.Second) // a clock of whole seconds has moved
		}
		d := startDaemonAt(t, root, nil, args...)
		d.busybox()
		dir := buildContext(t, map[string]string{"Dockerfile": everyKind, "files.tar": files, "sub/a": "a", "sub/b": "b", "sub/c/d": strings.Repeat("d", 5<<20)})
		var outs []string
		for n, attrs := range []string{"type=oci", "type=oci,compression=zstd", "type=docker,name=docker.io/some/name:1", "type=tar", "type=oci,compression=uncompressed,force-compression=true"} {
			out := filepath.Join(t.TempDir(), fmt.Sprint(n))
			d.ctl("build", "--build-arg", fmt.Sprint("SOURCE_DATE_EPOCH=", epoch), "-o", attrs+",rewrite-timestamp=true,dest="+out, dir)
			outs = append(outs, out)
		}
		archives = append(archives, outs)
	}
	for n, a := range archives[0] {
		if b := archives[1][n]; readFile(t, a) != readFile(t, b) {
			t.Errorf("archive %d differs:\n%s", n, differences(t, a, b))
		}
	}
	checkTimes(t, archives[0][0], epoch)
}

// differences tells what two tar archives have different, the entries of
// archives in them one by one.
func differences(t *testing.T, a, b string) string {
	t.Helper()
	x, y := map[string]entry{}, map[string]entry{}
	entries(t, readFile(t, a), "", x)
	entries(t, readFile(t, b), "", y)
	var out strings.Builder
	for name := range y {
		if _, ok := x[name]; !ok {
			x[name] = entry{}
		}
	}
	for name := range x {
		if v, w := fmt.Sprintf("%+v", x[name]), fmt.Sprintf("%+v", y[name]); v != w {
			fmt.Fprintf(&out, "%s: %.500s\n  and %.500s\n", name, v, w)
		}
	}
	if out.Len() == 0 {
		return "only in order or compression"
	}
	return out.String()
}

// entries adds the entries of a tar archive, and those of the archives in it.
func entries(t *testing.T, text, prefix string, out map[string]entry) {
	t.Helper()
	for r := tar.NewReader(strings.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", prefix, err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "blobs/") && !bytes.HasPrefix(data, []byte("{")) {
			layer := decompressed(data)
			if len(layer) == 0 {
				layer = data
			}
			entries(t, string(layer), prefix+h.Name+"!", out)
			continue
		}
		out[prefix+h.Name] = entry{*h, string(data)}
	}
}

// checkTimes fails the test unless what is in an image is as old as epoch, or
// older where it came with a time of its own.
func checkTimes(t *testing.T, archive string, epoch int64) {
	t.Helper()
	own := map[string]int64{"unpacked/t/": 5, "unpacked/t/old": 7, "deep/er/still/old": 12}
	all := map[string]entry{}
	entries(t, readFile(t, archive), "", all)
	for name, e := range all {
		_, file, inLayer := strings.Cut(name, "!")
		if !inLayer {
			continue
		}
		at := e.ModTime.Unix()
		if want, ok := own[file]; ok && at != want {
			t.Errorf("%s has the time %d, want %d", name, at, want)
		} else if !ok && at != epoch && at != 1 && at != 0 { // those of the base image; links in the tar
			t.Errorf("%s has the time %d, want %d", name, at, epoch)
		}
		delete(own, file)
	}
	if len(own) > 0 {
		t.Errorf("not in the image: %v", own)
	}
}
