// Package gc says what the cache's space goes to ([Collector.Usage]) and takes
// it back: on request ([Collector.Prune]) and by policies, after builds and when
// the disk fills ([Collector.Run]).
//
// What is evicted are holders: records of the action cache, and what an [Extra]
// keeps, such as cache mounts. A holder goes when it was not used for longest and
// nothing is built on its trees any more; the layers that then are in no tree,
// and the blobs that then belong to no layer and no image, go with it. Trees that
// a lease, a mount or a running step holds stay, whatever a policy says.
package gc
