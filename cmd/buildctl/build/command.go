package build

import (
	"context"
	"errors"
	"fmt"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/spf13/cobra"
)

// ExitError ends the program with a code when all has been said.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

const long = `Build an image, or files, from a Dockerfile.

In docker's form, CONTEXT is a directory, "-" for a tar archive or a Dockerfile
on standard input, or the URL of a git repository or a tar archive. Without
--output the image goes into the daemon's own image store under the names given
with --tag, where "buildctl image ls" shows it and a later FROM finds it.
With --output it goes only where that says; --load adds the store.

In BuildKit's form there is no CONTEXT: --frontend and its options say what is
built, or LLB on standard input does.

Attestations are made when asked for: --provenance, --sbom, --attest.`

const examples = `  buildctl build -t name:tag .
  buildctl build -f Dockerfile.debug --target test --build-arg VERSION=1.2 .
  buildctl build -t registry.example/name:tag --push --platform linux/amd64,linux/arm64 .
  buildctl build -o out .                          # the files of the result, in a directory
  buildctl build -o type=oci,dest=image.tar .      # the image as an OCI archive
  buildctl build --secret id=token,src=token.txt --ssh default .
  buildctl build --check .                         # lint the Dockerfile
  buildctl build - < Dockerfile                    # no context
  tar c . | buildctl build -t name -               # context from an archive
  buildctl build https://github.com/user/repo.git#branch:dir
  buildctl build --frontend dockerfile.v0 --local context=. --local dockerfile=. \
      --opt target=test --output type=image,name=registry.example/name,push=true
  go run ./llb | buildctl build --output type=local,dest=out`

// New returns the command. connection says which daemon builds; debug is set
// when details are wanted.
func New(connection *connect.Options, debug *bool) *cobra.Command {
	f := &flags{}
	cmd := &cobra.Command{
		Use: "build [flags] [CONTEXT]", Aliases: []string{"b"}, Short: "Build an image from a Dockerfile",
		Long: long, Example: examples,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%d contexts: want one (flags that take several values are repeated)", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.build(cmd.Context(), connection, args, *debug)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

// build makes the request, connects and runs it. What is wrong with the flags is
// said before a daemon is looked for.
func (f *flags) build(ctx context.Context, connection *connect.Options, args []string, debug bool) (err error) {
	r := f.newRequest(debug)
	defer func() { err = errors.Join(err, r.close()) }()
	if len(args) == 1 {
		err = f.docker(ctx, r, args[0])
	} else {
		err = f.buildkit(r)
	}
	if err != nil {
		return err
	}
	conn, err := connection.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return r.run(ctx, conn)
}
