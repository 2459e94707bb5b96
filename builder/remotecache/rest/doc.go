// Package rest is what the clients of object stores share: requests that are
// tried again where a failure is likely to pass ([Client.Do]), errors that say
// what the server answered ([StatusError]), and objects read piece by piece over
// connections that may break ([Client.Open]).
package rest
