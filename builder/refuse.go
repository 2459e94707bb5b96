package builder

import "github.com/buildd/buildd/solver/progress"

// refuse makes known that a build was refused, so that a client that waits for
// its progress, as all do, does not wait in vain.
func (s *jobs) refuse(ref string) {
	log := &progress.Log{}
	log.Close()
	if ref != "" && s.add(ref, log) == nil { // else there is a build of that name
		s.finish(ref, keepFinished)
	}
}
