package dockerfile

import (
	"context"
	"fmt"

	"github.com/buildd/buildd/frontend/sbom"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sync/errgroup"
)

// scanner writes bills of materials of images.
type scanner struct {
	*gateway
	*sbom.Scanner
}

// newScanner finds the image of the scanner; nil if no bill of materials is asked for.
func (b *build) newScanner(ctx context.Context) (*scanner, error) {
	if b.options.sbom == nil {
		return nil, nil
	}
	s, err := sbom.Find(ctx, &b.sources, *b.options.sbom, b.workerPlatform(), b.options.resolveMode.String())
	if err != nil {
		return nil, err
	}
	return &scanner{b.gateway, s}, nil
}

// attest adds the documents about every image to res.
func (s *scanner) attest(ctx context.Context, res *gwclient.Result, images []*image) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, img := range images {
		group.Go(func() error {
			targets := img.lowered.Scan
			def, err := s.marshal(ctx, s.Scan(img.platform.ID, targets.Core, targets.Extras, img.lowered.NoCache))
			if err != nil {
				return fmt.Errorf("marshal scan of image for %s: %w", img.platform.ID, err)
			}
			ref, err := s.solve(ctx, gwclient.SolveRequest{Definition: def.ToPB()})
			if err != nil {
				return fmt.Errorf("scan image for %s: %w", img.platform.ID, err)
			}
			res.AddAttestation(img.platform.ID, sbom.Attestation(ref))
			return nil
		})
	}
	return group.Wait()
}
