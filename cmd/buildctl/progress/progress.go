package progress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
)

// Display shows the events of a build on standard error.
type Display struct {
	mode     progressui.DisplayMode
	events   chan *client.SolveStatus // never closed: who sends may do so late
	stop     chan struct{}
	stopOnce sync.Once
	done     chan struct{} // closed when err and warnings are set
	err      error
	warnings []client.VertexWarning
	feeds    sync.WaitGroup
}

// New begins a display in a mode: auto, plain, tty, quiet, none or rawjson.
// $BUILDKIT_PROGRESS says what auto is.
func New(mode string) (*Display, error) {
	return newDisplay(mode, os.Stderr)
}

// NewOnStdout is New for output that was asked for.
func NewOnStdout(mode string) (*Display, error) {
	return newDisplay(mode, os.Stdout)
}

func newDisplay(mode string, out *os.File) (*Display, error) {
	if mode == "" || mode == string(progressui.AutoMode) {
		mode = cmp.Or(os.Getenv("BUILDKIT_PROGRESS"), string(progressui.AutoMode))
	}
	if mode == "none" {
		mode = string(progressui.QuietMode)
	}
	d, err := progressui.NewDisplay(out, progressui.DisplayMode(mode))
	if err != nil {
		return nil, fmt.Errorf("progress %q: %w: want auto, plain, tty, quiet or rawjson", mode, err)
	}
	p := &Display{
		mode: progressui.DisplayMode(mode), events: make(chan *client.SolveStatus), stop: make(chan struct{}), done: make(chan struct{}),
	}
	shown := make(chan *client.SolveStatus)
	go func() { // ends with Close
		defer close(shown)
		for {
			select {
			case s := <-p.events:
				select {
				case shown <- s:
				case <-p.done: // it broke
				}
			case <-p.stop:
				return
			}
		}
	}()
	go func() { // ends with shown
		defer close(p.done)
		// A cancelled build still has its end to show.
		p.warnings, p.err = d.UpdateFrom(context.Background(), shown)
	}()
	return p, nil
}

// Run shows what f does, on channels that f closes or hands to who does.
func Run(mode string, f func(*Display) error) error {
	d, err := New(mode)
	if err != nil {
		return fmt.Errorf("--%w", err)
	}
	err = f(d)
	_, closeErr := d.Close()
	return errors.Join(err, closeErr)
}

// Quiet tells whether nothing is shown but for the result.
func (d *Display) Quiet() bool { return d.mode == progressui.QuietMode }

// Text tells whether what is shown is for people, so that notes may follow.
func (d *Display) Text() bool { return !d.Quiet() && d.mode != progressui.RawJSONMode }

// Feed returns a channel for events, which whoever sends to it closes; also
// gets them too.
func (d *Display) Feed(also ...func(*client.SolveStatus)) chan *client.SolveStatus {
	ch := make(chan *client.SolveStatus)
	d.feeds.Add(1)
	go func() { // ends with ch
		defer d.feeds.Done()
		for s := range ch {
			for _, f := range also {
				f(s)
			}
			d.Send(s)
		}
	}()
	return ch
}

// Send shows an event, unless the display has ended.
func (d *Display) Send(s *client.SolveStatus) {
	select {
	case d.events <- s:
	case <-d.stop:
	}
}

// Close ends the display once all feeds have ended, and returns the warnings
// that the build gave.
func (d *Display) Close() ([]client.VertexWarning, error) {
	d.feeds.Wait()
	d.stopOnce.Do(func() { close(d.stop) })
	<-d.done
	return d.warnings, d.err
}
