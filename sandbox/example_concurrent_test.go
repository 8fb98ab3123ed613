package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hutchvm/hutch/sandbox"
)

// Commands run side by side.
func squares(ctx context.Context, sb *sandbox.Sandbox) error {
	results := make([]*sandbox.Result, 8)
	errs := make([]error, len(results))
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i], errs[i] = sb.Shell(ctx, fmt.Sprintf("echo $((%d * %d))", i, i)) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, r := range results {
		fmt.Print(r.Stdout())
	}
	return nil
}

func ExampleSandbox_Shell_concurrent() {
	ctx := context.Background()
	sb, err := sandbox.New(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sb.Close()
	if err := squares(ctx, sb); err != nil {
		fmt.Println(err)
	}
}
