// What GitOps tools make of an object: reads one JSON request after another, and prints one JSON answer to each.
//
//	{"run": "kstatus", "object": …}                    → {"status": "InProgress", "message": …}
//	{"run": "lua", "script": …, "object": …}           → what the script returns
//	{"run": "action", "script": …, "object": …}        → the object as it is patched to
//
// Scripts are Argo CD's health checks and actions. They run in gopher-lua with no more than Argo CD gives them for
// scripts of argocd-cm: the base, package and table libraries, time and date, and one second. An answer {"error": …}
// says why there is none.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	luajson "layeh.com/gopher-json"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type request struct {
	Run    string                    `json:"run"`
	Script string                    `json:"script"`
	Object unstructured.Unstructured `json:"object"`
}

func main() {
	requests, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var asked request
		err := requests.Decode(&asked)
		if errors.Is(err, io.EOF) {
			return
		}
		var answer any
		if err == nil {
			answer, err = answered(asked)
		}
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		if err := answers.Encode(answer); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func answered(asked request) (any, error) {
	switch asked.Run {
	case "kstatus":
		found, err := status.Compute(&asked.Object)
		if err != nil {
			return nil, err
		}
		return map[string]string{"status": found.Status.String(), "message": found.Message}, nil
	case "lua":
		return returned(asked.Script, asked.Object.Object)
	case "action":
		found, err := returned(asked.Script, asked.Object.Object)
		if err != nil {
			return nil, err
		}
		return emptyAsBefore(found, asked.Object.Object), nil
	}
	return nil, fmt.Errorf("no such run: %q", asked.Run)
}

// The table that a script returns for the object that it sees as obj.
func returned(script string, object map[string]any) (any, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage,
		lua.BaseLibName: lua.OpenBase,
		lua.TabLibName:  lua.OpenTable,
		lua.OsLibName:   lua.OpenOs,
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return nil, err
		}
	}
	state.SetGlobal(lua.OsLibName, harmless(state.GetGlobal(lua.OsLibName).(*lua.LTable)))
	limited, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(limited)
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return nil, fmt.Errorf("the script returned a %s, not a table", state.Get(-1).Type())
	}
	text, err := luajson.Encode(table)
	if err != nil {
		return nil, err
	}
	var found any
	err = json.Unmarshal(text, &found)
	return found, err
}

// Of the os library, what opens, starts and ends nothing.
func harmless(library *lua.LTable) *lua.LTable {
	kept := &lua.LTable{Metatable: lua.LNil}
	for _, name := range []string{"time", "date"} {
		kept.RawSetString(name, library.RawGetString(name))
	}
	return kept
}

func value(state *lua.LState, from any) lua.LValue {
	switch from := from.(type) {
	case bool:
		return lua.LBool(from)
	case int64:
		return lua.LNumber(from)
	case float64:
		return lua.LNumber(from)
	case string:
		return lua.LString(from)
	case []any:
		list := state.CreateTable(len(from), 0)
		for _, item := range from {
			list.Append(value(state, item))
		}
		return list
	case map[string]any:
		table := state.CreateTable(0, len(from))
		for key, item := range from {
			table.RawSetString(key, value(state, item))
		}
		return table
	}
	return lua.LNil
}

// Lua has one empty table for both, and it comes back as a list. What was an empty object before is one again.
func emptyAsBefore(found, before any) any {
	switch before := before.(type) {
	case map[string]any:
		if list, ok := found.([]any); ok && len(list) == 0 {
			return map[string]any{}
		}
		if now, ok := found.(map[string]any); ok {
			for key, item := range now {
				now[key] = emptyAsBefore(item, before[key])
			}
		}
	case []any:
		if now, ok := found.([]any); ok {
			for place := range min(len(now), len(before)) {
				now[place] = emptyAsBefore(now[place], before[place])
			}
		}
	}
	return found
}
