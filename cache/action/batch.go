package action

import (
	"maps"
	"time"

	"github.com/buildd/buildd/cache"
)

// note is what is remembered of a target's last build, and since when.
type note struct {
	text []byte
	at   time.Time
}

// content is a content digest and when it was found out.
type content struct {
	cache.Key
	at time.Time
}

// use is how often and when last a record was used since it was written.
type use struct {
	n    int
	last time.Time
}

func (u use) plus(v use) use {
	if v.last.After(u.last) {
		u.last = v.last
	}
	return use{u.n + v.n, u.last}
}

func (u use) applied(r cache.Record) cache.Record {
	r.UseCount += u.n
	if u.last.After(r.LastUsed) {
		r.LastUsed = u.last
	}
	return r
}

// batch is a set of writes. Of a record it holds either the record itself, with
// its uses counted in, or uses of one that lies in an older batch or on disk.
type batch struct {
	records  map[cache.Key]*cache.Record // nil is deleted
	uses     map[cache.Key]use
	wiped    map[cache.Key]bool // older content digests under the key do not count
	contents map[contentKey]content
	notes    map[cache.Key]note // by noteKeyOf
}

func newBatch() *batch {
	return &batch{
		records: map[cache.Key]*cache.Record{}, uses: map[cache.Key]use{}, wiped: map[cache.Key]bool{},
		contents: map[contentKey]content{}, notes: map[cache.Key]note{},
	}
}

func (b *batch) len() int {
	return len(b.records) + len(b.uses) + len(b.wiped) + len(b.contents) + len(b.notes)
}

// results tells whether b has records that name trees.
func (b *batch) results() bool {
	for _, r := range b.records {
		if r != nil {
			return true
		}
	}
	return false
}

func (b *batch) set(k cache.Key, r cache.Record, forget bool) {
	b.records[k] = &r
	delete(b.uses, k)
	if forget {
		b.wipe(k)
	}
}

func (b *batch) delete(k cache.Key) {
	b.records[k] = nil
	delete(b.uses, k)
	b.wipe(k)
}

func (b *batch) wipe(k cache.Key) {
	b.wiped[k] = true
	maps.DeleteFunc(b.contents, func(ck contentKey, _ content) bool { return ck.key() == k })
}

func (b *batch) use(k cache.Key, now time.Time) {
	u := use{1, now}
	r, ok := b.records[k]
	switch {
	case !ok:
		b.uses[k] = b.uses[k].plus(u)
	case r != nil:
		used := u.applied(*r)
		b.records[k] = &used
	}
}

// over returns the batch that has the effect of old and then b. It may reuse
// either.
func (b *batch) over(old *batch) *batch {
	for k := range b.wiped {
		old.wipe(k)
	}
	for k, r := range b.records {
		old.records[k] = r
		delete(old.uses, k)
	}
	for k, u := range b.uses {
		if r, ok := old.records[k]; ok && r != nil {
			used := u.applied(*r)
			old.records[k] = &used
		} else if !ok {
			old.uses[k] = old.uses[k].plus(u)
		}
	}
	maps.Copy(old.contents, b.contents)
	maps.Copy(old.notes, b.notes)
	return old
}

// clone copies what over may change.
func (b *batch) clone() *batch {
	return &batch{
		records: maps.Clone(b.records), uses: maps.Clone(b.uses), wiped: maps.Clone(b.wiped),
		contents: maps.Clone(b.contents), notes: maps.Clone(b.notes),
	}
}
