// Placeholder until the demo is written.
package main

func main() {}
