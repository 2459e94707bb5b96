package build

import (
	"errors"
	"fmt"

	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	"github.com/moby/buildkit/client"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
)

// fileSync gives out directories as BuildKit's service does, in fewer messages.
type fileSync struct {
	files filesync.FileSyncServer
}

var _ bksession.Attachable = (*fileSync)(nil)

func newFileSync(dirs map[string]fsutil.FS) (*fileSync, error) {
	out := filesync.StaticDirSource{}
	for name, dir := range dirs {
		own, err := fsutil.NewFilterFS(dir, &fsutil.FilterOpt{Map: rootOwns})
		if err != nil {
			return nil, fmt.Errorf("local directory %q: %w", name, err)
		}
		out[name] = own
	}
	files, ok := filesync.NewFSSyncProvider(out).(filesync.FileSyncServer)
	if !ok {
		return nil, errors.New("the provider of local directories is no server")
	}
	return &fileSync{files: files}, nil
}

// outputs serves those outputs that are one file.
func outputs(exports []client.ExportEntry) filesync.FileSendServer {
	t := filesync.NewFSSyncTarget()
	for i, e := range exports {
		if e.Output != nil {
			t.Add(filesync.WithFSSync(i, e.Output))
		}
	}
	return t
}

// rootOwns leaves owners out, which mean nothing on another machine.
func rootOwns(_ string, st *types.Stat) fsutil.MapResult {
	st.Uid, st.Gid = 0, 0
	return fsutil.MapResultKeep
}

// Register implements session.Attachable.
func (f *fileSync) Register(s *grpc.Server) { filesyncv1.Register(s, f.files) }
