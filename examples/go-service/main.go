// Command service answers every request with a greeting.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

var version = "dev"

func greeting(name string) string {
	if name == "" {
		name = "world"
	}
	return fmt.Sprintf("hello, %s (version %s)", name, version)
}

func main() {
	if len(os.Args) > 1 {
		fmt.Println(greeting(os.Args[1]))
		return
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, greeting(r.URL.Query().Get("name")))
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
