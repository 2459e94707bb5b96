// Package device gives build containers devices by the Container Device
// Interface (RUN --device): it reads the CDI specifications of the host, finds
// what a name stands for, and puts the edits into a container's runtime-spec.
package device
