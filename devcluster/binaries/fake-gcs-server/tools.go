//go:build tools

// Package tools pins the program that devcluster builds.
package tools

import _ "github.com/fsouza/fake-gcs-server"
