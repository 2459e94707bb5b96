package native

import (
	"os"
	"testing"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/runtimetest"
)

func TestMain(m *testing.M) {
	if os.Getenv(attackEnv) != "" {
		attack()
		return
	}
	Init()
	if os.Getenv(daemonEnv) != "" {
		daemon(os.Args[1], os.Args[2])
	}
	code := m.Run()
	runtimetest.Cleanup()
	os.Exit(code)
}

func TestSuite(t *testing.T) {
	runtimetest.Run(t, runtimetest.Config{Open: func(t *testing.T) runtime.Runtime {
		r, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}})
}
