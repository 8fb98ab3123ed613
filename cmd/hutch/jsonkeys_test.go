package main

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/sandbox"
)

var jsonKey = regexp.MustCompile(`^[a-z][a-zA-Z0-9]*$`)

// badKeys returns the fields below typ whose JSON key is not in lower camel case. Types that write their own JSON are left out.
func badKeys(typ reflect.Type) []string {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || reflect.PointerTo(typ).Implements(reflect.TypeFor[json.Marshaler]()) {
		return nil
	}
	var bad []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if key == "-" || !f.IsExported() {
			continue
		}
		if !f.Anonymous && !jsonKey.MatchString(key) {
			bad = append(bad, typ.String()+"."+f.Name+" "+key)
		}
		bad = append(bad, badKeys(f.Type)...)
	}
	return bad
}

func TestJSONHasOneStyleOfKeys(t *testing.T) {
	for _, printed := range []any{sandbox.CheckResult{}, sandbox.Record{}, sandbox.Info{}, sandbox.SessionInfo{}, inspection{}, kernelLine{}, imageLine{}, fileLine{}} {
		for _, bad := range badKeys(reflect.TypeOf(printed)) {
			t.Errorf("%s: want a key in lower camel case", bad)
		}
	}
}
