package registry

import (
	"fmt"

	"github.com/buildd/buildd/worker/session"
	"github.com/docker/cli/cli/config"
)

// dockerHubLogin is how docker's config file calls Docker Hub.
const dockerHubLogin = "https://index.docker.io/v1/"

// DockerLogin returns a lookup in the config.json of dir, "" for
// $DOCKER_CONFIG or ~/.docker. It is for Options.Login.
func DockerLogin(dir string) func(host string) (session.Login, error) {
	if dir == "" {
		dir = config.Dir()
	}
	return func(host string) (session.Login, error) {
		file, err := config.Load(dir)
		if err != nil {
			return session.Login{}, fmt.Errorf("read docker's configuration: %w", err)
		}
		if host == dockerHubAPI || host == dockerHub {
			host = dockerHubLogin
		}
		a, err := file.GetAuthConfig(host)
		if err != nil {
			return session.Login{}, fmt.Errorf("look up %s in docker's configuration: %w", host, err)
		}
		if a.IdentityToken != "" {
			return session.Login{Secret: a.IdentityToken}, nil
		}
		return session.Login{Username: a.Username, Secret: a.Password}, nil
	}
}
