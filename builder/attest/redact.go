package attest

import "net/url"

// mask stands where a name or a password was.
const mask = "xxxxx"

// redact takes the credentials out of a URL. What is no URL stays as it is.
func redact(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	name := u.User.Username()
	if name != "" {
		name = mask
	}
	if _, ok := u.User.Password(); ok {
		u.User = url.UserPassword(name, mask)
	} else {
		u.User = url.User(name)
	}
	return u.String()
}
