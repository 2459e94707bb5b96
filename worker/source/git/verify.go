package git

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/buildd/buildd/worker/source/signature"
)

const (
	pgpHeader = "-----BEGIN PGP SIGNATURE-----"
	sshHeader = "-----BEGIN SSH SIGNATURE-----"
)

// check verifies the signature of the tag, or that of the commit where there is
// no signed tag.
func (v *verification) check(o objects, found commit) error {
	var tagErr error
	if len(o.tag) > 0 && !v.ignoreTag {
		if tagErr = v.checkObject("tag", o.tag, found.ID); tagErr == nil {
			return nil
		}
	}
	if v.requireTag {
		if tagErr == nil {
			tagErr = errors.New("there is no signed tag, but one is required")
		}
		return tagErr
	}
	return v.checkObject("commit", o.commit, found.peeled())
}

func (v *verification) checkObject(kind string, raw []byte, id string) error {
	if err := checkID(kind, raw, id); err != nil {
		return err
	}
	signed, sig := splitCommit(raw)
	if kind == "tag" {
		signed, sig = splitTag(raw)
	}
	var err error
	switch {
	case bytes.HasPrefix(sig, []byte(pgpHeader)):
		err = signature.VerifyPGP(bytes.NewReader(signed), sig, v.pubKey, signature.Policy{RejectExpired: v.rejectExpired})
	case bytes.HasPrefix(sig, []byte(sshHeader)):
		err = signature.VerifySSH(signed, sig, "git", v.pubKey)
	default:
		err = errors.New("it is not signed")
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind, id, err)
	}
	return nil
}

// checkID makes sure that the object is the one that id names, for git believes
// its own store.
func checkID(kind string, raw []byte, id string) error {
	data := append(fmt.Appendf(nil, "%s %d\x00", kind, len(raw)), raw...)
	var sum []byte
	if len(id) == sha256Digits {
		h := sha256.Sum256(data)
		sum = h[:]
	} else {
		h := sha1.Sum(data)
		sum = h[:]
	}
	if have := hex.EncodeToString(sum); have != id {
		return fmt.Errorf("%s %s: its content has the checksum %s", kind, id, have)
	}
	return nil
}

// splitTag splits a tag object into what is signed and the signature after it.
func splitTag(raw []byte) (signed, sig []byte) {
	for _, h := range []string{pgpHeader, sshHeader} {
		if i := bytes.Index(raw, []byte("\n"+h)); i >= 0 {
			return raw[:i+1], raw[i+1:]
		}
	}
	return raw, nil
}

// splitCommit takes the signature header (gpgsig, continued by lines that begin
// with a space) out of a commit object.
func splitCommit(raw []byte) (signed, sig []byte) {
	var s strings.Builder
	inSig, inHead := false, true
	for line := range bytes.Lines(raw) {
		if inHead {
			name, value, _ := bytes.Cut(line, []byte(" "))
			switch {
			case string(name) == "gpgsig" || string(name) == "gpgsig-sha256":
				inSig = true
				s.Write(value)
				continue
			case inSig && bytes.HasPrefix(line, []byte(" ")):
				s.Write(line[1:])
				continue
			}
			inSig = false
			inHead = len(bytes.TrimSpace(line)) > 0
		}
		signed = append(signed, line...)
	}
	return signed, []byte(s.String())
}
