module example.com/embed

go 1.26.0

require example.com/mitm v0.0.0

require golang.org/x/sys v0.49.0 // indirect

replace example.com/mitm => ../..
