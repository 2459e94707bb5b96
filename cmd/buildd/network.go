package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/buildd/buildd/cmd/buildd/config"
	"github.com/buildd/buildd/worker/network"
	"github.com/moby/buildkit/solver/pb"
)

// newNetworks makes the networks that steps can choose from. The mode auto means
// a network of its own for every step where that can be had, and else the
// host's.
func (d *daemon) newNetworks(ctx context.Context, c config.Config) (map[pb.NetMode]network.Provider, error) {
	sandbox, err := d.newSandboxNetwork(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("network mode %s: %w", c.Workers.OCI.NetworkMode, err)
	}
	d.onClose(sandbox.Close)
	return map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: sandbox, pb.NetMode_HOST: network.Host{}, pb.NetMode_NONE: network.None{},
	}, nil
}

func (d *daemon) newSandboxNetwork(ctx context.Context, c config.Config) (network.Provider, error) {
	w := c.Workers.OCI
	switch w.NetworkMode {
	case "none":
		return network.None{}, nil
	case "host":
		return network.Host{}, nil
	case "cni":
		return network.NewCNI(ctx, network.CNIConfig{
			ConfigPath: w.CNIConfigPath, BinaryDir: w.CNIBinaryPath, PoolSize: w.CNIPoolSize, Dir: filepath.Join(c.Root, "net"), Log: d.log,
		})
	case "bridge":
		return d.newBridge(c)
	default:
		b, err := d.newBridge(c)
		if err != nil {
			d.log.Warn("RUN shares the host's network: a network of its own cannot be had here", "error", err)
			return network.Host{}, nil
		}
		return b, nil
	}
}

func (d *daemon) newBridge(c config.Config) (*network.Bridge, error) {
	w := c.Workers.OCI
	conf := network.BridgeConfig{Name: c.Root, Device: w.BridgeName, PoolSize: w.CNIPoolSize, Log: d.log}
	if w.BridgeSubnet != "" {
		var err error
		if conf.Subnet, err = netip.ParsePrefix(w.BridgeSubnet); err != nil {
			return nil, fmt.Errorf("bridgeSubnet %q: want an address with the length of its prefix, such as 10.10.0.0/16: %w", w.BridgeSubnet, err)
		}
	}
	return network.NewBridge(conf)
}
