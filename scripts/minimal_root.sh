#!/bin/sh
# Lay out a root file system that holds Tessera and only what it needs: the shared libraries that its
# binary and ONNX Runtime ask for, the CA certificates, one user without rights, and /tmp.
# Runs inside the image's build, on Debian, with Tessera in /opt/tessera.
set -eu

root=$1
mkdir -p "$root/etc/ssl/certs" "$root/opt" "$root/usr/share/doc" "$root/tmp"
chmod 1777 "$root/tmp"
cp -a /opt/tessera "$root/opt/"
chmod -R a+rX,go-w "$root/opt/tessera"

# `ldd` prints 'NAME => PATH (ADDRESS)', and '/lib64/ld-linux-x86-64.so.2 (ADDRESS)' for the loader.
libraries=$(ldd /opt/tessera/bin/tessera /opt/tessera/lib/libonnxruntime.so)
if echo "$libraries" | grep 'not found'; then
    exit 1
fi
echo "$libraries" | grep -o '/[^ ]*\.so[^ ]*' | grep -v '^/opt/' | sort -u | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done

cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
for package in libc6 libgcc-s1 libstdc++6 ca-certificates; do
    [ ! -e "/usr/share/doc/$package/copyright" ] || {
        mkdir -p "$root/usr/share/doc/$package"
        cp -L "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/"
    }
done
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
echo 'tessera:x:65532:65532:Tessera:/opt/tessera:/sbin/nologin' > "$root/etc/passwd"
echo 'tessera:x:65532:' > "$root/etc/group"
