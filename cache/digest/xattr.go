package digest

import (
	"strconv"
	"strings"
)

const (
	// OwnerXattr keeps the owner ("uid:gid", decimal) of a file or directory
	// whose owner could not be set, because the user namespace maps one ID only.
	OwnerXattr = "user.buildd.owner"

	opaqueTrusted = "trusted.overlay.opaque"
	opaqueUser    = "user.overlay.opaque"
)

// OpaqueXattr is the attribute with which overlay marks an opaque directory
// (value "y"); user says that the layer is for mounts with userxattr.
func OpaqueXattr(user bool) string {
	if user {
		return opaqueUser
	}
	return opaqueTrusted
}

// KeepXattr tells whether an extended attribute belongs to a file and hence
// counts for its content and goes into images. What describes the host instead
// (labels, integrity measurements, trusted.*, properties of the file system) or
// a layer's place in an overlay does not, nor does a name that a PAX record
// cannot carry.
func KeepXattr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") &&
		!strings.HasPrefix(name, "user.overlay.") &&
		!strings.HasPrefix(name, "user.buildd.") &&
		!strings.ContainsAny(name, "=\x00")
}

// FormatOwner returns the value of OwnerXattr.
func FormatOwner(uid, gid uint32) string {
	return strconv.FormatUint(uint64(uid), 10) + ":" + strconv.FormatUint(uint64(gid), 10)
}

// ParseOwner reads what FormatOwner wrote. Whoever runs in a container can
// write the attribute, so bad values are common enough to be no error.
func ParseOwner(s string) (uid, gid uint32, ok bool) {
	u, g, found := strings.Cut(s, ":")
	if !found {
		return 0, 0, false
	}
	un, err1 := strconv.ParseUint(u, 10, 32)
	gn, err2 := strconv.ParseUint(g, 10, 32)
	const invalid = 1<<32 - 1 // (uid_t)-1 names nobody
	if err1 != nil || err2 != nil || un == invalid || gn == invalid {
		return 0, 0, false
	}
	return uint32(un), uint32(gn), true
}
