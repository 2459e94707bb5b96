package signature

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Policy says which keys are good.
type Policy struct {
	// RejectExpired refuses keys that have expired by now; else a key has to have
	// been good when it signed.
	RejectExpired bool
}

const (
	minRSABits = 2048
	// clockSkew is how far ahead a signer's clock may be.
	clockSkew = 5 * time.Minute
)

// VerifyPGP verifies an armored detached OpenPGP signature by one of the
// armored keys in pubKeys.
func VerifyPGP(signed io.Reader, sig, pubKeys []byte, p Policy) error {
	keys, err := readKeys(pubKeys)
	if err != nil {
		return fmt.Errorf("read public key: %w", err)
	}
	first, raw, err := readSignature(sig)
	if err != nil {
		return fmt.Errorf("read signature: %w", err)
	}
	if err := checkAlgorithms(first); err != nil {
		return err
	}
	if first.CreationTime.After(time.Now().Add(clockSkew)) {
		return fmt.Errorf("the signature was made in the future, at %s", first.CreationTime)
	}
	config := &packet.Config{}
	if !p.RejectExpired {
		config.Time = func() time.Time { return first.CreationTime }
	}
	signer, err := openpgp.CheckDetachedSignature(keys, signed, bytes.NewReader(raw), config)
	if err != nil {
		if first.IssuerKeyId != nil {
			return fmt.Errorf("signature by key %X: %w", *first.IssuerKeyId, err)
		}
		return fmt.Errorf("signature: %w", err)
	}
	return checkSigner(signer)
}

// readKeys reads one or more armored blocks.
func readKeys(data []byte) (openpgp.EntityList, error) {
	var keys openpgp.EntityList
	r := bytes.NewReader(data)
	for {
		block, err := armor.Decode(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if block.Type != openpgp.PublicKeyType {
			return nil, fmt.Errorf("block is a %q, want %q", block.Type, openpgp.PublicKeyType)
		}
		k, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k...)
	}
	if len(keys) == 0 {
		return nil, errors.New("no armored key in it")
	}
	return keys, nil
}

// readSignature returns the first signature and all of the unarmored data.
func readSignature(data []byte) (*packet.Signature, []byte, error) {
	block, err := armor.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, nil, fmt.Errorf("armor: %w", err)
	}
	raw, err := io.ReadAll(block.Body)
	if err != nil {
		return nil, nil, err
	}
	r := packet.NewReader(bytes.NewReader(raw))
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, nil, errors.New("no signature in it")
		}
		if err != nil {
			return nil, nil, err
		}
		if s, ok := p.(*packet.Signature); ok {
			return s, raw, nil
		}
	}
}

func checkAlgorithms(s *packet.Signature) error {
	switch s.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return fmt.Errorf("the signature's hash %v is too weak or unknown: want SHA-256 or better", s.Hash)
	}
	switch s.PubKeyAlgo {
	case packet.PubKeyAlgoEdDSA, packet.PubKeyAlgoEd25519, packet.PubKeyAlgoECDSA, packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		return nil
	default:
		return fmt.Errorf("the signature's key algorithm %v is not accepted: want RSA, ECDSA or EdDSA", s.PubKeyAlgo)
	}
}

func checkSigner(e *openpgp.Entity) error {
	for _, r := range e.Revocations {
		if r.SigType == packet.SigTypeKeyRevocation && e.PrimaryKey.VerifyRevocationSignature(r) == nil {
			return fmt.Errorf("the key was revoked: %s", r.RevocationReasonText)
		}
	}
	if k, ok := e.PrimaryKey.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < minRSABits {
		return fmt.Errorf("the RSA key has %d bits: want %d", k.N.BitLen(), minRSABits)
	}
	return nil
}
