// Package buffers sets up the pool of buffers that gRPC messages are read to and
// written from.
package buffers

import (
	"fmt"

	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// Use makes every client and server of this process that starts later take its
// buffers from a pool with sizes of all powers of two from 16 KiB to 4 MiB. gRPC's
// own has nothing between 32 KiB and 1 MiB, and clears a whole buffer before it
// gives it out again: of files, which are sent in pieces of 32 KiB and a header,
// every piece would clear a megabyte. To be called before the first client or
// server is made.
func Use() {
	pool, err := mem.NewBinaryTieredBufferPool(8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22)
	if err != nil {
		panic(fmt.Sprintf("make buffer pool: %v", err)) // sizes that no machine has
	}
	experimental.SetDefaultBufferPool(pool)
}
