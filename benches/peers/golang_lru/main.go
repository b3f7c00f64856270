// Records what golang-lru answers to random operations, one per line, for tests/golang_lru_replay.rs. The
// operations are the same in each run, so what it prints changes only with golang-lru.
//
// Debian's packages golang-go and golang-github-hashicorp-golang-lru-dev (0.5.4, whose LRU, 2Q and ARC are
// those of v2 without type parameters) are all that it needs:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run main.go > ../../../tests/golang_lru.trace
package main

import (
	"bufio"
	"fmt"
	"os"

	lru "github.com/hashicorp/golang-lru"
)

type any = interface{}

const operations = 400

type random uint64

func (r *random) below(end int) int {
	*r += 0x9E3779B97F4A7C15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return int((z ^ z>>31) >> 33 % uint64(end))
}

var out = bufio.NewWriter(os.Stdout)

func line(parts ...any) { fmt.Fprintln(out, parts...) }

// One line per answer: the value, or "-".
func found(value any, ok bool) any {
	if ok {
		return value
	}
	return "-"
}

// The keys and values that left, in the order of the callbacks.
var left []any

func told(answers ...any) {
	line(append(answers, left...)...)
	left = nil
}

func ordered(size int) {
	line("cache", "lru", size)
	cache, err := lru.NewWithEvict(size, func(key, value any) { left = append(left, key, value) })
	check(err)
	r := random(size)
	keys := 2*size + 2
	for value := 0; value < operations; value++ {
		key := r.below(keys)
		switch op := r.below(40); {
		case op < 14:
			evicted := cache.Add(key, value)
			told("add", key, value, evicted)
		case op < 24:
			line("get", key, found(cache.Get(key)))
		case op < 26:
			line("peek", key, found(cache.Peek(key)))
		case op < 28:
			line("contains", key, cache.Contains(key))
		case op < 30:
			told("remove", key, cache.Remove(key))
		case op < 31:
			k, v, ok := cache.GetOldest()
			line("oldest", found(k, ok), found(v, ok))
		case op < 32:
			k, v, ok := cache.RemoveOldest()
			told("remove_oldest", found(k, ok), found(v, ok))
		case op < 33:
			to := 1 + r.below(2*size)
			told("resize", to, cache.Resize(to))
		case op < 35:
			ok, evicted := cache.ContainsOrAdd(key, value)
			told("contains_or_add", key, value, ok, evicted)
		case op < 37:
			previous, ok, evicted := cache.PeekOrAdd(key, value)
			told("peek_or_add", key, value, found(previous, ok), evicted)
		case op == 39 && r.below(4) == 0:
			cache.Purge()
			// In the order of a map, which is another one in each run.
			left = nil
			line("purge", cache.Len())
		default:
			line(append([]any{"keys"}, cache.Keys()...)...)
		}
	}
}

// The part that 2Q and ARC share.
type ghostly interface {
	Add(key, value any)
	Get(key any) (any, bool)
	Peek(key any) (any, bool)
	Contains(key any) bool
	Remove(key any)
	Keys() []any
	Len() int
	Purge()
}

func unordered(name string, size int, cache ghostly) {
	line("cache", name, size)
	r := random(size)
	keys := 3*size + 2
	for value := 0; value < operations; value++ {
		key := r.below(keys)
		switch op := r.below(40); {
		case op < 16:
			cache.Add(key, value)
			// Its own defect, in which it holds more than its size, is not for others to repeat.
			if cache.Len() > size {
				return
			}
			line("put", key, value)
		case op < 30:
			line("get", key, found(cache.Get(key)))
		case op < 32:
			line("peek", key, found(cache.Peek(key)))
		case op < 34:
			line("contains", key, cache.Contains(key))
		case op < 36:
			before := cache.Contains(key)
			cache.Remove(key)
			line("take", key, before)
		case op == 36 && r.below(8) == 0:
			cache.Purge()
			line("purge", cache.Len())
		default:
			line(append([]any{"keys"}, cache.Keys()...)...)
		}
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	defer out.Flush()
	for _, size := range []int{1, 2, 3, 5, 8, 16} {
		ordered(size)
	}
	for _, size := range []int{2, 3, 5, 8, 16} {
		twoQueue, err := lru.New2Q(size)
		check(err)
		unordered("2q", size, twoQueue)
		adaptive, err := lru.NewARC(size)
		check(err)
		unordered("arc", size, adaptive)
	}
}
