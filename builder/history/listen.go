package history

import (
	"context"

	control "github.com/moby/buildkit/api/services/control"
)

// subscriberBacklog is how many events a slow listener may fall behind before
// events are dropped for it.
const subscriberBacklog = 256

func (s *Store) publishLocked(t control.BuildHistoryEventType, rec *control.BuildHistoryRecord) {
	for c := range s.subs {
		select {
		case c <- &control.BuildHistoryEvent{Type: t, Record: rec}:
		default:
		}
	}
}

// Listen implements ListenBuildHistory: the builds that run, the records that
// match, and unless the request says to exit early what happens from now on.
func (s *Store) Listen(ctx context.Context, req *control.BuildHistoryRequest, send func(*control.BuildHistoryEvent) error) error {
	match, err := filter(req.Filter)
	if err != nil {
		return err
	}
	c := make(chan *control.BuildHistoryEvent, subscriberBacklog)
	s.mu.Lock()
	s.subs[c] = true
	var first []*control.BuildHistoryEvent
	for _, r := range s.active {
		if req.Ref == "" || r.Ref == req.Ref {
			first = append(first, &control.BuildHistoryEvent{Type: control.BuildHistoryEventType_STARTED, Record: r})
		}
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subs, c)
	}()
	if !req.ActiveOnly {
		recs, err := s.all()
		if err != nil {
			return err
		}
		n := int32(0)
		for _, r := range recs {
			if (req.Ref != "" && r.Ref != req.Ref) || !match(r) || (req.Limit > 0 && n >= req.Limit) {
				continue
			}
			n++
			first = append(first, &control.BuildHistoryEvent{Type: control.BuildHistoryEventType_COMPLETE, Record: r})
		}
	}
	for _, e := range first {
		if err := send(e); err != nil {
			return err
		}
	}
	for !req.EarlyExit {
		select {
		case e := <-c:
			if req.Ref != "" && e.Record.Ref != req.Ref {
				continue
			}
			if err := send(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
