package build

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
)

const (
	// requestID is the frontend option that asks for something else than a build.
	requestID = "requestid"

	resultPrefix = "result."
	resultJSON   = resultPrefix + "json"
	resultText   = resultPrefix + "txt"
	resultStatus = resultPrefix + "statuscode"
)

// call is a question about a Dockerfile.
type call struct {
	request      string
	json         bool
	ignoreStatus bool
}

// parseCall reads the value of --call: a method, and how its result is wanted. A
// build is no call.
func parseCall(s string) (*call, error) {
	const want = "want build, check, outline or targets, with ,format=json for JSON"
	method, rest, _ := strings.Cut(s, ",")
	c := &call{}
	for f := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(f, "=")
		switch {
		case f == "":
		case k == "format" && (v == "json" || v == "text"):
			c.json = v == "json"
		case k == "ignorestatus":
			c.ignoreStatus = v != "false"
		default:
			return nil, fmt.Errorf("%q: %q is not known: %s", s, f, want)
		}
	}
	switch strings.TrimPrefix(method, "method=") {
	case "", "build":
		return nil, nil
	case "check", "lint":
		c.request = lint.RequestLint
	case "outline":
		c.request = outline.RequestSubrequestsOutline
	case "targets":
		c.request = targets.RequestTargets
	case "subrequests.describe":
		c.request = subrequests.RequestSubrequestsDescribe
	default:
		if !strings.Contains(method, ".") { // other frontends have their own
			return nil, fmt.Errorf("%q: %q is not known: %s", s, method, want)
		}
		c.request = method
	}
	return c, nil
}

// print writes the answer.
func (c *call) print(w io.Writer, res *gwclient.Result) error {
	if res == nil {
		return errors.New("the frontend returned nothing")
	}
	b, hasJSON := res.Metadata[resultJSON]
	if c.json {
		if !hasJSON {
			return fmt.Errorf("the frontend has no JSON for %s", c.request)
		}
		_, err := fmt.Fprintf(w, "%s\n", bytes.TrimRight(b, "\n"))
		return errors.Join(err, c.exit(res))
	}
	if c.request == lint.RequestLint && hasJSON {
		if err := printLint(w, b); err != nil {
			return err
		}
		return c.exit(res)
	}
	if text, ok := res.Metadata[resultText]; ok {
		if _, err := w.Write(text); err != nil {
			return err
		}
		return c.exit(res)
	}
	for _, k := range slices.Sorted(maps.Keys(res.Metadata)) {
		if strings.HasPrefix(k, resultPrefix) {
			if _, err := fmt.Fprintf(w, "%s\n%s\n", k, res.Metadata[k]); err != nil {
				return err
			}
		}
	}
	return c.exit(res)
}

// exit makes a status other than 0 the program's.
func (c *call) exit(res *gwclient.Result) error {
	n, err := strconv.Atoi(string(res.Metadata[resultStatus]))
	if err != nil || n == 0 || c.ignoreStatus {
		return nil
	}
	return &ExitError{Code: n}
}

// printLint prints what checks have found, and how much.
func printLint(w io.Writer, b []byte) error {
	var r lint.LintResults
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("read the checks' result: %w", err)
	}
	switch n := len(r.Warnings); {
	case r.Error != nil:
	case n == 0:
		fmt.Fprintln(w, "Check complete, no warnings found.")
	case n == 1:
		fmt.Fprintln(w, "Check complete, 1 warning has been found!")
	default:
		fmt.Fprintf(w, "Check complete, %d warnings have been found!\n", n)
	}
	if err := lint.PrintLintViolations(b, w, nil); err != nil {
		return err
	}
	if r.Error != nil {
		if len(r.Warnings) > 0 {
			fmt.Fprintln(w)
		}
		r.PrintErrorTo(w, nil)
	}
	return nil
}
