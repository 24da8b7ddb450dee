//go:build tools

// Package tools pins the program that checks the server's HTTP/2.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
