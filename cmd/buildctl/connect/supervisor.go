package connect

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SuperviseCommand is the hidden command that runs [Supervise].
const SuperviseCommand = "supervise-daemon"

// stopFor is how long the daemon may take to end before it is killed.
const stopFor = 20 * time.Second

// supervisor owns a daemon on behalf of clients.
type supervisor struct {
	places
	program string
	// joins and leaves are clients that come and go.
	joins, leaves chan *net.UnixConn
	clients       map[*net.UnixConn]bool
	said          []string // what all clients hear, those too that come later
	listener      net.Listener
	cmd           *exec.Cmd
	ended         chan error
}

// Supervise runs the daemon program on the state directory root for as long as
// it has clients. The first one is at the other end of descriptor 3.
func Supervise(root, program string) error {
	// The daemon gets a signal when this thread ends.
	runtime.LockOSThread()
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	inherited := os.NewFile(3, "client")
	first, err := net.FileConn(inherited)
	inherited.Close() // or the daemon would have it too
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	client, ok := first.(*net.UnixConn)
	if !ok {
		return errors.New("supervise: descriptor 3 is no socket")
	}
	p, err := newPlaces(root)
	if err != nil {
		return err
	}
	lock, err := tryLock(p.lock)
	if err != nil || lock == nil {
		fmt.Fprintln(client, saysBusy)
		return err
	}
	defer lock.Close()
	s := &supervisor{places: p, program: program, joins: make(chan *net.UnixConn), leaves: make(chan *net.UnixConn), clients: map[*net.UnixConn]bool{}}
	if err := s.listen(); err != nil {
		fmt.Fprintf(client, "%s\n%v\n", saysFailed, err)
		return err
	}
	s.add(client)
	s.run()
	for _, f := range []string{s.daemon, s.log, s.lock} {
		os.Remove(f)
	}
	s.listener.Close() // before the clients hear of it: who dials now finds nobody
	for c := range s.clients {
		c.Close()
	}
	return nil
}

// tryLock takes the lock of a file; nil without an error if another process has
// it.
func tryLock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, nil
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Whoever had it last may have removed it meanwhile.
		ours, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if there, err := os.Stat(path); err == nil && os.SameFile(ours, there) {
			return f, nil
		}
		f.Close()
	}
}

func (s *supervisor) listen() error {
	// Ours is the lock, so that what lies there is a dead supervisor's.
	for _, p := range []string{s.control, s.daemon} {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove old socket: %w", err)
		}
	}
	l, err := net.Listen("unix", s.control)
	if err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	if err := os.Chmod(s.control, 0o600); err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	s.listener = l
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.joins <- c.(*net.UnixConn)
		}
	}()
	return nil
}

// add takes a client and watches for its end.
func (s *supervisor) add(c *net.UnixConn) {
	s.clients[c] = true
	for _, line := range s.said {
		fmt.Fprint(c, line)
	}
	go func() { // ends with the connection
		_, _ = io.Copy(io.Discard, c)
		s.leaves <- c
	}()
}

// say tells all clients. What was said before has no more meaning.
func (s *supervisor) say(line string) {
	s.said = []string{line}
	for c := range s.clients {
		fmt.Fprint(c, line)
	}
}

// run goes from a free state directory over a running daemon to its end.
func (s *supervisor) run() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if !s.waitFree(term) {
		return
	}
	if err := s.start(); err != nil {
		s.say(fmt.Sprintf("%s\n%v\n", saysFailed, err))
		return
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if listens("unix://" + s.daemon) {
				tick.Stop()
				s.say(saysReady + "\n")
			}
		case <-s.ended:
			s.say(saysFailed + "\n" + s.tail())
			return
		case c := <-s.joins:
			s.add(c)
		case c := <-s.leaves:
			if s.remove(c) {
				s.stop()
				return
			}
		case <-term:
			s.stop()
			return
		}
	}
}

// remove forgets a client and tells whether it was the last one, who is kept to
// hear when all has ended.
func (s *supervisor) remove(c *net.UnixConn) bool {
	if len(s.clients) == 1 {
		return true
	}
	delete(s.clients, c)
	c.Close()
	return false
}

// waitFree waits until no other daemon has the state directory, or no client
// wants it any more.
func (s *supervisor) waitFree(term <-chan os.Signal) bool {
	for {
		if !locked(filepath.Join(s.root, "lock")) {
			return true
		}
		if len(s.said) == 0 {
			s.say(saysLocked + "\n")
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case c := <-s.joins:
			s.add(c)
		case c := <-s.leaves:
			if s.remove(c) {
				return false
			}
		case <-term:
			return false
		}
	}
}

// locked tells whether a daemon has the lock of its state directory. What else
// is wrong with that the daemon will say.
func locked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func (s *supervisor) start() error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("daemon's log: %w", err)
	}
	defer log.Close()
	s.cmd = exec.Command(s.program, "--root", s.root, "--addr", "unix://"+s.daemon)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	s.ended = make(chan error, 1)
	go func() { s.ended <- s.cmd.Wait() }() // ends with the daemon
	return nil
}

// stop ends the daemon.
func (s *supervisor) stop() {
	s.listener.Close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(stopFor):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// tail returns the end of the daemon's log.
func (s *supervisor) tail() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	const most = 8 << 10
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return string(b)
}
