// Package userns lets a program of an ordinary user become root of a user
// namespace with mounts of its own, which is all that building takes.
//
// [Enter] starts the program again and stays behind to pass signals on and to
// hand back the exit code:
//
//  1. The program is started in new user and mount namespaces under the name
//     of [Name]. It waits, for it has no user ID there yet.
//  2. Its parent maps IDs: those of /etc/subuid and /etc/subgid by newuidmap and
//     newgidmap where they are to be had, which can do what the user cannot;
//     otherwise the user's own ID alone, as root's.
//  3. It executes itself once more, now as root, and so with all privileges
//     inside the namespace. [Init] takes it from there.
//
// Programs that hold privileges already have no use for it.
package userns
