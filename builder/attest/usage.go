package attest

import (
	"time"

	"github.com/prometheus/procfs"
)

// sample is what the whole machine had used at one moment since it started, with
// the names that BuildKit gives to the fields. Two of them, from the beginning
// and the end of a build, tell what went on meanwhile. What this machine does not
// tell is left out.
type sample struct {
	Timestamp      time.Time    `json:"timestamp"`
	CPU            *cpuUsage    `json:"cpuStat,omitempty"`
	Proc           *procUsage   `json:"procStat,omitempty"`
	Memory         *memoryUsage `json:"memoryStat,omitempty"`
	CPUPressure    *pressure    `json:"cpuPressure,omitempty"`
	MemoryPressure *pressure    `json:"memoryPressure,omitempty"`
	IOPressure     *pressure    `json:"ioPressure,omitempty"`
}

// cpuUsage is in seconds of one CPU.
type cpuUsage struct {
	User      float64 `json:"user"`
	Nice      float64 `json:"nice"`
	System    float64 `json:"system"`
	Idle      float64 `json:"idle"`
	IOWait    float64 `json:"iowait"`
	IRQ       float64 `json:"irq"`
	SoftIRQ   float64 `json:"softirq"`
	Steal     float64 `json:"steal"`
	Guest     float64 `json:"guest"`
	GuestNice float64 `json:"guestNice"`
}

type procUsage struct {
	ContextSwitches  uint64 `json:"contextSwitches"`
	ProcessCreated   uint64 `json:"processCreated"`
	ProcessesRunning uint64 `json:"processesRunning"`
}

// memoryUsage is in KiB.
type memoryUsage struct {
	Total     *uint64 `json:"total"`
	Free      *uint64 `json:"free"`
	Available *uint64 `json:"available"`
	Buffers   *uint64 `json:"buffers"`
	Cached    *uint64 `json:"cached"`
	Active    *uint64 `json:"active"`
	Inactive  *uint64 `json:"inactive"`
	Swap      *uint64 `json:"swap"`
	Dirty     *uint64 `json:"dirty"`
	Writeback *uint64 `json:"writeback"`
	Slab      *uint64 `json:"slab"`
}

type pressure struct {
	Some *pressureLine `json:"some,omitempty"`
	Full *pressureLine `json:"full,omitempty"`
}

type pressureLine struct {
	Avg10  *float64 `json:"avg10"`
	Avg60  *float64 `json:"avg60"`
	Avg300 *float64 `json:"avg300"`
	Total  *uint64  `json:"total"`
}

// takeSample takes the time, and reads /proc if usage is asked for.
func takeSample(usage bool) *sample {
	s := &sample{Timestamp: time.Now().UTC()}
	if !usage {
		return s
	}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return s
	}
	if st, err := fs.Stat(); err == nil {
		c := st.CPUTotal
		s.CPU = &cpuUsage{
			User: c.User, Nice: c.Nice, System: c.System, Idle: c.Idle, IOWait: c.Iowait, IRQ: c.IRQ, SoftIRQ: c.SoftIRQ,
			Steal: c.Steal, Guest: c.Guest, GuestNice: c.GuestNice,
		}
		s.Proc = &procUsage{ContextSwitches: st.ContextSwitches, ProcessCreated: st.ProcessCreated, ProcessesRunning: st.ProcessesRunning}
	}
	if m, err := fs.Meminfo(); err == nil {
		s.Memory = &memoryUsage{
			Total: m.MemTotal, Free: m.MemFree, Available: m.MemAvailable, Buffers: m.Buffers, Cached: m.Cached, Active: m.Active,
			Inactive: m.Inactive, Swap: m.SwapTotal, Dirty: m.Dirty, Writeback: m.Writeback, Slab: m.Slab,
		}
	}
	s.CPUPressure, s.MemoryPressure, s.IOPressure = pressureOn(fs, "cpu"), pressureOn(fs, "memory"), pressureOn(fs, "io")
	return s
}

// pressureOn is nil where the kernel does not count pressure.
func pressureOn(fs procfs.FS, resource string) *pressure {
	p, err := fs.PSIStatsForResource(resource)
	if err != nil {
		return nil
	}
	return &pressure{Some: line(p.Some), Full: line(p.Full)}
}

func line(l *procfs.PSILine) *pressureLine {
	if l == nil {
		return nil
	}
	return &pressureLine{Avg10: &l.Avg10, Avg60: &l.Avg60, Avg300: &l.Avg300, Total: &l.Total}
}
