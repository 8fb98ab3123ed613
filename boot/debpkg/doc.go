// Package debpkg fetches distribution packages as an ordinary user and unpacks them into the user's cache. Nothing is installed: the
// system's own package state is read, never written, and no maintainer script runs.
//
// # Primer
//
// A Debian package (.deb) is an archive with a control file (name, version, dependencies) and a file tree. Three programs of every Debian
// relative work without privileges once they are pointed away from the system's state folders:
//
//   - apt-get update with Dir::State and Dir::Cache in a private folder fetches the package lists of the sources the system is configured for;
//     signatures are checked with the system's keys as always.
//   - apt-get -s install is the simulator: it prints an "Inst name [old] (new …)" line for every package that an installation would unpack,
//     dependencies included and what the system has already left out.
//   - apt-get download checks a package's hash against the signed lists and writes it to the working directory; dpkg-deb -x unpacks it.
//
// Packages are not made to run from another folder than /. Most do when PATH and LD_LIBRARY_PATH name the unpacked tree (Tree.Env); absolute
// symbolic links inside the tree are made relative, and links that maintainer scripts would have made (alternatives) are missing.
//
// # Layout and invariants
//
// Everything lives in the deb folder of internal/cachedir: apt (private lists), pool (packages kept by Fetch), trees (unpacked closures, one
// folder per set of package versions), lock. One flock covers all of it. A tree or a package appears by rename, whole or not at all; a folder
// named tmp-* is the rest of a killed process and is removed by the next.
//
// Lists are refreshed when a download is needed and they are older than a day, when a package is not found, or when a download fails.
// A tree whose versions are still what the simulator asks for is returned without any use of the network, however old the lists are.
//
// # Testing
//
// The parsers and the cache logic are tested with a stand-in for the two programs; TestRealClient fetches a small real package and is skipped
// where there is no client or no network.
package debpkg
