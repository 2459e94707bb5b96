package signature

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

const (
	sshMagic     = "SSHSIG"
	sshBlockType = "SSH SIGNATURE"
)

// VerifySSH verifies an armored SSH signature over data, made for namespace, by
// one of the keys in authorized_keys format.
func VerifySSH(data, sig []byte, namespace string, pubKeys []byte) error {
	block, _ := pem.Decode(sig)
	if block == nil || block.Type != sshBlockType {
		return errors.New("read signature: no armored SSH signature")
	}
	var s struct {
		Magic     [6]byte
		Version   uint32
		PublicKey string
		Namespace string
		Reserved  string
		Hash      string
		Signature string
	}
	if err := ssh.Unmarshal(block.Bytes, &s); err != nil {
		return fmt.Errorf("read signature: %w", err)
	}
	if string(s.Magic[:]) != sshMagic || s.Version != 1 {
		return fmt.Errorf("read signature: version %d is not known", s.Version)
	}
	if s.Namespace != namespace {
		return fmt.Errorf("the signature is for %q, not for %q", s.Namespace, namespace)
	}
	var sum []byte
	switch s.Hash {
	case "sha256":
		h := sha256.Sum256(data)
		sum = h[:]
	case "sha512":
		h := sha512.Sum512(data)
		sum = h[:]
	default:
		return fmt.Errorf("the signature's hash %q is not known", s.Hash)
	}
	key, err := sshKey(pubKeys, []byte(s.PublicKey))
	if err != nil {
		return err
	}
	var inner ssh.Signature
	if err := ssh.Unmarshal([]byte(s.Signature), &inner); err != nil {
		return fmt.Errorf("read signature: %w", err)
	}
	if inner.Format == ssh.KeyAlgoRSA {
		return errors.New("the signature's hash SHA-1 is too weak")
	}
	signed := append([]byte(sshMagic), ssh.Marshal(struct{ Namespace, Reserved, Hash, Sum string }{s.Namespace, s.Reserved, s.Hash, string(sum)})...)
	if err := key.Verify(signed, &inner); err != nil {
		return fmt.Errorf("signature by key %s: %w", ssh.FingerprintSHA256(key), err)
	}
	return nil
}

// sshKey returns the key with the given wire format, which must be one of the
// trusted ones.
func sshKey(trusted, wire []byte) (ssh.PublicKey, error) {
	for rest := trusted; len(bytes.TrimSpace(rest)) > 0; {
		k, _, _, next, err := ssh.ParseAuthorizedKey(rest)
		if err != nil {
			return nil, fmt.Errorf("read public key: %w", err)
		}
		if bytes.Equal(k.Marshal(), wire) {
			return k, nil
		}
		rest = next
	}
	k, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	return nil, fmt.Errorf("signed by key %s, which is not the one that is trusted", ssh.FingerprintSHA256(k))
}
