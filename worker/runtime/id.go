package runtime

import "fmt"

// maxID keeps file, cgroup and socket names made of an ID within their limits.
const maxID = 128

// CheckID returns an error unless id can be used as a container's name.
func CheckID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("container id %q: want 1 to %d characters", id, maxID)
	}
	for i, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '_', (c == '-' || c == '.') && i > 0:
		default:
			return fmt.Errorf("container id %q: want letters, digits and any of \"_.-\", and one of the first two to start with", id)
		}
	}
	return nil
}
