package remotecache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/buildd/buildd/builder/remotecache/s3"
)

// defaultTouch is how old blobs get before they are made as new, so that a bucket
// may remove what is older than some days.
const defaultTouch = 24 * time.Hour

func s3Store(a attrs) (store, error)   { return newS3(a) }
func s3Source(a attrs) (source, error) { return newS3(a) }

func newS3(a attrs) (*objects, error) {
	c := s3.Config{
		Bucket: a.text("bucket", os.Getenv("AWS_BUCKET")), Region: a.text("region", os.Getenv("AWS_REGION")), Endpoint: a.text("endpoint_url", ""),
	}
	if c.Bucket == "" {
		return nil, errors.New("attribute bucket is missing: want the name of a bucket ($AWS_BUCKET of the daemon)")
	}
	if c.Region == "" {
		return nil, errors.New("attribute region is missing: want a region such as eu-west-1 ($AWS_REGION of the daemon)")
	}
	prefix := a.text("prefix", "")
	o := &objects{
		title: "exporting cache to Amazon S3", place: "s3://" + c.Bucket + "/" + prefix,
		blobPrefix: prefix + a.text("blobs_prefix", "blobs/"), manifest: prefix + a.text("manifests_prefix", "manifests/"), names: takeNames(a),
	}
	var err error
	if c.PathStyle, err = a.flag("use_path_style", false); err != nil {
		return nil, err
	}
	if o.touch, err = a.duration("touch_refresh", defaultTouch); err != nil {
		return nil, err
	}
	if o.parallel, err = a.number("upload_parallelism", 4); err != nil {
		return nil, err
	}
	if err := takeRetries(a, &c); err != nil {
		return nil, err
	}
	if c.Credentials, err = awsCredentials(a, c.Region); err != nil {
		return nil, err
	}
	o.bucket, err = s3.New(c)
	return o, err
}

// takeRetries takes attributes of AWS's SDK. Both of its modes wait longer from
// one attempt to the next, as we do; there is no header to disable.
func takeRetries(a attrs, c *s3.Config) (err error) {
	if _, err := a.flag("disable_accept_encoding", false); err != nil {
		return err
	}
	switch mode, _ := a.take("retry_mode"); mode {
	case "", "standard", "adaptive":
	default:
		return fmt.Errorf("attribute retry_mode: %q is no mode: want standard or adaptive", mode)
	}
	c.Attempts, err = a.number("retry_max_attempts", 0)
	return err
}

// awsCredentials are the client's, or else the daemon's own.
func awsCredentials(a attrs, region string) (func(context.Context) (s3.Credentials, error), error) {
	var c s3.Credentials
	c.AccessKeyID, _ = a.take("access_key_id")
	c.SecretAccessKey, _ = a.take("secret_access_key")
	c.SessionToken, _ = a.take("session_token")
	switch {
	case c.AccessKeyID != "" && c.SecretAccessKey != "":
		return func(context.Context) (s3.Credentials, error) { return c, nil }, nil
	case c.AccessKeyID != "" || c.SecretAccessKey != "":
		return nil, errors.New("attributes access_key_id and secret_access_key belong together: one of them is missing")
	default:
		return (&s3.Chain{Region: region}).Credentials, nil
	}
}
