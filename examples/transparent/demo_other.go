//go:build !linux

package main

import "errors"

func runDemo() error { return errors.New("-demo needs the network namespaces of Linux") }
