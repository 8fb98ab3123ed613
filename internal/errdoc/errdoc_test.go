package errdoc

import (
	"os"
	"reflect"
	"testing"
)

func TestParse(t *testing.T) {
	got, err := parse("# title\n<!-- a: one -->\n```text\nfirst\nsecond\n```\nwords\n<!-- b: two -->\n```text\n```\n")
	want := map[string]map[string]string{"a": {"one": "first\nsecond"}, "b": {"two": ""}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"<!-- a -->\n```text\n```", "<!-- a: b -->\nwords", "<!-- a: b -->", "<!-- a: b -->\n```text\nx",
		"<!-- a: b -->\n```text\n```\n<!-- a: b -->\n```text\n```"} {
		if got, err := parse(bad); err == nil {
			t.Errorf("%q: %v, want an error", bad, got)
		}
	}
}

// tested are the packages whose tests call Compare.
var tested = []string{"kvm", "boot", "channel", "sandbox", "hutch"}

func TestEveryEntryBelongsToAPackageThatComparesIt(t *testing.T) {
	text, err := os.ReadFile(catalogue())
	if err != nil {
		t.Fatal(err)
	}
	all, err := parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range all {
		found := false
		for _, p := range tested {
			found = found || p == pkg
		}
		if !found {
			t.Errorf("nothing compares the entries of %s", pkg)
		}
	}
}
